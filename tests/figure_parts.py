"""What a test asks of a figure: its panels, its curves, its lines of theory, its words."""

from gradient_horizon.figures import scales


def title_of(ax):
    return ax.get_title(loc="left")


def panels_of(figure):
    """The Axes that show data: every one but the colour bar."""
    return [ax for ax in figure.axes if ax.get_xlabel() or title_of(ax) or ax.get_ylabel() != scales.LABEL]


def curves_of(ax):
    """The lines that run along lags or weight scales: not the horizontal ones for reference, not lone markers."""
    lines = [line for line in ax.lines if line.get_gid() != "theory"]
    return [line for line in lines if line.get_linestyle() not in ("None", "") and len(line.get_xdata()) > 2]


def theory_of(ax):
    """The dotted lines of theory."""
    return [line for line in ax.lines if line.get_gid() == "theory"]


def words_of(figure):
    legend = figure.legends[0]
    return [text.get_text() for text in legend.get_texts()], legend.get_title().get_text()
