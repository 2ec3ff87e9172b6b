"""From words to a checked `Config`: the schema, its rules, presets and launchers."""
