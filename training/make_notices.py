"""sources.csv -> the list of sources in NOTICES.md, grouped by licence; the licence texts stay.

    python training/make_notices.py codegen_cli/data/nano

Run it when the bundled model is replaced by one that was trained on other sources.
"""

import csv
import sys
from collections import defaultdict
from pathlib import Path

BEGIN = "<!-- sources: begin -->\n"
END = "<!-- sources: end -->\n"


def used_sources(sources: Path) -> dict[str, list[tuple[str, str]]]:
    """Return (repository, commit) of every source that gave a file, by licence, sorted."""
    by_licence = defaultdict(list)
    with sources.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if int(row["files"]) > 0:
                by_licence[row["licence"]].append((row["repository"], row["commit"]))
    return {
        licence: sorted(by_licence[licence], key=lambda source: source[0].lower())
        for licence in sorted(by_licence, key=lambda name: (name.count("/"), name))
    }


def source_list(by_licence: dict[str, list[tuple[str, str]]]) -> str:
    """Return the list in Markdown: a heading for each licence, a line for each source."""
    parts = []
    for licence, sources in by_licence.items():
        parts.append(f"### {licence.replace('/', ' and ')}\n\n")
        parts += [f"- {repository} ({commit})\n" for repository, commit in sources]
        parts.append("\n")
    return "".join(parts)


def main(directory: Path) -> None:
    """Rewrite NOTICES.md in a directory from the sources.csv beside it."""
    notices = directory / "NOTICES.md"
    before, _, rest = notices.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    listed = source_list(used_sources(directory / "sources.csv"))
    notices.write_text(f"{before}{BEGIN}\n{listed}{END}{after}", "utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
