"""The README says only what is so: its tables are made from the committed results (test_documented runs the rest)."""

import json
import re
from pathlib import Path

from result_tables import benches, effects, experiments, growth, results_table

from minirft.commands.cli import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_is_made_from_the_results():
    """Numbers typed by hand, or older than the results they quote."""
    files = sorted((ROOT / "results" / "demo").glob("seed-*.json"))
    table = results_table([json.loads(file.read_text(encoding="utf-8")) for file in files])
    shown = README.split("results_table -->\n")[1].split("<!-- /demo -->")[0].strip()
    assert len(files) == 5 and shown == table


def test_every_command_is_listed_and_no_other():
    """A command in the README that does not exist, or one that nobody can find."""
    listed = set(re.findall(r"^\| `minirft ((?:data )?\w+)", README, re.MULTILINE))
    listed |= set(re.findall(r", `(data \w+) ", README))
    assert listed | {"version"} == set(COMMANDS)


def test_links_lead_somewhere():
    """A link to a file that was moved."""
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_costs_are_those_of_the_results():
    """A speed that was typed by hand, or measured on other code than the files say."""
    page = (ROOT / "docs" / "costs.md").read_text(encoding="utf-8")
    for name, made in (("bench", benches), ("growth", growth)):
        shown = page.split(f": {made.__name__} -->\n")[1].split(f"<!-- /{name} -->")[0].strip()
        assert shown == made(ROOT / "results" / "bench").strip()


def test_the_replication_is_that_of_the_results():
    """A table of the paper's effects that is older than the cells it is made of."""
    page = (ROOT / "docs" / "replication.md").read_text(encoding="utf-8")
    for name, made in (("experiments", experiments), ("effects", effects)):
        shown = page.split(f": {name} -->\n")[1].split(f"<!-- /{name} -->")[0].strip()
        assert shown == made(ROOT / "results" / "tiny", ROOT / "results" / "paper.json").strip()


def test_the_readme_stays_short():
    """A first page that nobody reads to its end."""
    assert len(README.splitlines()) <= 160
