"""Every link in README.md and docs/ leads somewhere: to a file of this repository, and to a heading that it has."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.S | re.M)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^()\s<>]*(?:\([^()\s]*\)[^()\s<>]*)*)>?(?:\s+\"[^\"]*\")?\s*\)")
REFERENCE = re.compile(r"^\[[^\]]+\]:\s+<?(\S+?)>?\s*$", re.M)


def links_of(text: str) -> list[str]:
    """Return the targets of all links and images, those in code excepted."""
    prose = CODE.sub("`code`", FENCED.sub("", text))
    return [*LINK.findall(prose), *REFERENCE.findall(prose)]


def anchors_of(text: str) -> Iterator[str]:
    """Yield the anchors that GitHub gives to the headings of a page.

    The heading's visible text in lower case, with all but letters, digits, hyphens and underscores dropped and spaces
    replaced by hyphens; a repeated heading gets -1, -2 and so on.
    """
    seen: dict[str, int] = {}
    for heading in re.findall(r"^ {0,3}#{1,6}[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$", FENCED.sub("", text), re.M):
        visible = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        anchor = re.sub(r"[^\w\- ]", "", visible.lower()).replace(" ", "-")
        number = seen.get(anchor, 0)
        seen[anchor] = number + 1
        yield f"{anchor}-{number}" if number else anchor
    yield from re.findall(r"<a\s+(?:id|name)=\"([^\"]+)\"", text)


def fault_of(target: str, page: Path, root: Path) -> str | None:
    """Return what is wrong with a link on `page`; None if it leads somewhere. Other sites are not visited."""
    parts = urlsplit(target)
    if parts.scheme:
        well_formed = parts.scheme in ("http", "https") and re.fullmatch(r"[\w-]+(\.[\w-]+)+(:\d+)?", parts.netloc)
        return None if well_formed else "is no address"
    file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not file.is_relative_to(root) or not file.exists():
        return "leads to no file of the repository"
    if parts.fragment and (file.suffix != ".md" or parts.fragment not in anchors_of(file.read_text(encoding="utf-8"))):
        return f"leads to no heading of {file.name}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    faults = {
        target: fault
        for target in links_of(page.read_text(encoding="utf-8"))
        if (fault := fault_of(target, page, ROOT)) is not None
    }
    assert faults == {}


def test_every_page_of_the_docs_can_be_reached_from_the_readme():
    reached, todo = set(), [PAGES[0]]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        paths = (urlsplit(target) for target in links_of(page.read_text(encoding="utf-8")))
        todo += [(page.parent / parts.path).resolve() for parts in paths if parts.path and not parts.scheme]
    assert {*PAGES} <= reached


def test_anchors_are_those_that_github_makes():
    text = """# What `make run` prints
## A cell, an ensemble, a task, a clip rule
## ‖∂h_T/∂h_t‖ & more ##
## Twice
## Twice
```
# no heading
```
## [A link](docs/a.md) in *it*
"""
    assert [*anchors_of(text)] == [
        "what-make-run-prints",
        "a-cell-an-ensemble-a-task-a-clip-rule",
        "h_th_t--more",
        "twice",
        "twice-1",
        "a-link-in-it",
    ]


def test_links_in_code_are_none_and_bad_ones_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](#here) [b](#there) [c](gone.md) ![d](page.md#here) `[e](x)` [f](http://one) [g](../up.md)\n"
    )
    (tmp_path.parent / "up.md").touch()
    links = links_of(page.read_text())
    assert links == ["#here", "#there", "gone.md", "page.md#here", "http://one", "../up.md"]
    assert [fault_of(link, page, tmp_path) is None for link in links] == [True, False, False, True, False, False]
