"""README and docs/: links lead somewhere; pages, folders, options and variables are all there."""

import re
from pathlib import Path

import pytest
from test_structure import FOLDERS

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
LINKS = re.compile(r"\]\(([^)#\s]+)\)")


def links_of(page):
    return [link for link in LINKS.findall(page.read_text("utf-8")) if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page):
    assert [link for link in links_of(page) if not (page.parent / link).is_file()] == []


def test_the_readme_links_every_page_once():
    pages = [link for link in links_of(ROOT / "README.md") if link.startswith("docs/")]
    assert sorted(pages) == sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))


INNER_FOLDERS = [folder.partition(".")[2] for folder in FOLDERS if "." in folder]


def test_the_picture_shows_every_folder():
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.partition("## How it works")[2].partition("\n## ")[0]
    assert set(INNER_FOLDERS) <= set(re.findall(r"\w+", section))


def test_the_folders_are_listed_from_low_to_high():
    page = (ROOT / "docs" / "development.md").read_text("utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.M) == INNER_FOLDERS


@pytest.fixture(scope="module")
def help_of_complete(codegen):
    return codegen("complete", "--help").stdout.decode()


def test_the_readme_has_every_option_of_complete(help_of_complete):
    options = set(re.findall(r"--[a-z][a-z-]+", help_of_complete)) - {"--help"}
    assert "--temperature" in options
    readme = (ROOT / "README.md").read_text("utf-8")
    assert options <= set(re.findall(r"--[a-z][a-z-]+", readme))


def test_every_variable_is_said(help_of_complete):
    page = (ROOT / "docs" / "scripting.md").read_text("utf-8")
    variables = set(re.findall(r"CODEGEN_[A-Z_]+", help_of_complete))
    assert "CODEGEN_TEMPERATURE" in variables
    assert variables | {"CODEGEN_HOME", "CODEGEN_KERNELS", "CODEGEN_PREFETCH"} == set(
        re.findall(r"`(CODEGEN_[A-Z_]+)`", page)
    )
