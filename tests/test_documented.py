"""What README.md and docs/*.md tell a reader to type is typed here, with small settings: no documented line can rot.

`RULES` says of every command what is run in its place.  A command that no rule covers fails, and so does a command in a
block that is not marked as one.
"""

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from test_data_feed import coco  # noqa: F401, a fixture
from test_experiments_real import root  # noqa: F401, a fixture

from minirft.commands.cli import COMMANDS, main
from minirft.data.settings import DataConfig
from minirft.runs.config import GRPOConfig
from minirft.runs.toml import from_table

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SHELL = ("bash", "sh", "shell", "console")
NO_CODE = ("", "text", "{toctree}")
FIRST_WORDS = r"(minirft|make|pip|conda|pytest|python\d?|cd|export|git|uv|jupyter|source)"


@dataclass(frozen=True)
class Rule:
    """What is run in place of the documented commands that begin with `begins`."""

    begins: str
    how: str  # for the reader of this table
    instead: tuple[str, str] = ("", "")  # a word, and what stands in its place
    also: str = ""


SHORT = "--steps 1 --prompts-per-step 2 --group-size 2 --max-completion-length 4 --eval-samples 2 --eval-every 0"
PHOTOS = "--max-pixels 12544 --dtype float32 --threads 1"
OTHERS = "another program's, on hardware that we lack: not run, and the page says so"
RULES = [
    Rule("minirft demo", "the embedded model, one step, four questions", also="--config demo.toml --steps 1"),
    Rule(
        "minirft train own_coco_4shot",
        "a step on twelve fabricated pictures; random weights of 2 layers for Qwen2-VL-2B, NF4 and LoRA as they stand",
        also=f"--model {{miniature}} {SHORT} {PHOTOS} --out run",
    ),
    Rule("minirft audit", "as it stands, on the page's own file"),
    Rule("minirft train tiny_detection", "a step, with the page's own file", also=SHORT),
    Rule("minirft fit", "as it stands: it needs no weights"),
    Rule("minirft data inspect CONFIG", "as it stands, on the fabricated pictures", ("CONFIG", "cats.toml")),
    Rule("minirft data check CONFIG", "as it stands, on the fabricated pictures", ("CONFIG", "cats.toml")),
    Rule("minirft data split CONFIG", "as it stands, on the fabricated pictures", ("CONFIG", "cats.toml")),
    Rule("minirft data export CONFIG", "as it stands, on the fabricated pictures", ("CONFIG", "cats.toml")),
    Rule("minirft experiment all", "the dry run, on fabricated sets", ("DIR", "{root}"), "--processor {miniature}"),
    Rule(
        "minirft experiment grounding",
        "its dry run; test_experiments_real runs it to its table",
        ("DIR", "{root}"),
        "--dry-run --processor {miniature}",
    ),
    Rule(
        "minirft experiment coco-fewshot",
        "its dry run, with the page's card16.toml",
        ("DIR", "{root}"),
        "--dry-run --processor {miniature}",
    ),
    Rule("minirft report", "a run of the embedded model, one step"),
    Rule("minirft predict", "a run of the embedded model, one step", also="--max-completion-length 8"),
    Rule("minirft export", "a run of the embedded model with LoRA, one step"),
    Rule(
        "minirft eval coco_8cate_4shot",
        "an adapter of the embedded model, two questions",
        also="--model tiny --quantize none --dtype float32 --data.categories cat mug --eval-samples 2",
    ),
    Rule("make", "`make -n`: the target exists, and its recipe can be written out"),
    Rule("pip install", "read: its files exist, and so do the extras"),
    Rule("python -m venv", "made, without pip, in another folder"),
    Rule(". .venv", "the file is in that environment"),
    Rule("torchrun", "its flags are read; test_with_trl runs two processes"),
    Rule("accelerate launch", "its flags are read; test_with_trl splits weights between two processes"),
    Rule("vllm serve", OTHERS),
    Rule("python llama.cpp", OTHERS),
    Rule("llama.cpp/build", OTHERS),
    Rule("pytest", "this very run: it takes its settings from pyproject.toml"),
]


# ------------------------------------------------------------------ what is documented


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    text: str

    @property
    def page_text(self) -> str:
        """The whole page."""
        return next(page.read_text(encoding="utf-8") for page in PAGES if page.name == self.page)


def blocks(text: str, page: str) -> list[Block]:
    """The fenced blocks of a text."""
    fences = r"^( *)(`{3,}|~{3,})([^\n`]*)\n(.*?)^\1\2 *$"
    found = re.findall(fences, text, re.MULTILINE | re.DOTALL)
    return [Block(page, language.strip(), body) for _, _, language, body in found]


def commands(block: Block) -> Iterator[str]:
    """One by one, without comments; of a console block the lines behind a `$`."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    for line in lines:
        words = shlex.split(line, comments=True)
        for part in shlex.join(words).replace("'&&'", "\n").splitlines():
            if part.strip():
                yield part.strip()


BLOCKS = [block for page in PAGES for block in blocks(page.read_text(encoding="utf-8"), page.name)]
TYPED = [command for block in BLOCKS if block.language in SHELL for command in commands(block)]
TABLES = [block for block in BLOCKS if block.language == "toml"]
PYTHON = [block for block in BLOCKS if block.language == "python"]
FILES = {name[1]: block.text for block in PYTHON if (name := re.match(r"# (\w+\.py)\n", block.text))}  # to be saved


def inline() -> list[str]:
    """Commands within a sentence or a table, such as `minirft bench --gpu`."""
    pages = [re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S) for page in PAGES]
    spans = [span.replace("\\|", "|") for page in pages for span in re.findall(r"`([^`]+)`", page)]
    return sorted({span for span in spans if re.match(rf"{FIRST_WORDS} [\w\"-]", span)})


def rule_of(command: str) -> Rule:
    """The first rule that covers the command."""
    for rule in RULES:
        if re.match(re.escape(rule.begins) + r"(?![\w-])", command):
            return rule
    raise AssertionError(f"{command}: no rule of RULES says how to try it")


def test_blocks_and_commands_are_found():
    """A search that finds none would pass everything."""
    text = "```bash\nmake a  # b\nmake c && minirft fit \\\n  x\n```\n\n  ```console\n  $ make d\n  e\n  ```\n"
    first, second = blocks(text, "t")
    assert [*commands(first)] == ["make a", "make c", "minirft fit x"]
    assert [*commands(Block("t", "console", "$ make d\ne\n"))] == ["make d"] and second.language == "console"
    assert len(TYPED) >= 10 and len(TABLES) >= 5 and len(inline()) >= 20 and "rewards.py" in FILES


def test_every_block_is_of_a_known_kind():
    """A language that nothing here runs; a command in a block that says nothing of its language."""
    for block in BLOCKS:
        assert block.language in (*SHELL, *NO_CODE, "python", "toml", "yaml"), f"{block.page}: {block.language}"
        if block.language in NO_CODE:
            assert not re.search(rf"^ *(\$ )?{FIRST_WORDS} [-\w]", block.text, re.M), f"{block.page}: mark it as bash"


def test_accelerate_reads_the_files_on_the_pages(tmp_path: Path):
    """A key that accelerate does not know, which it refuses on a machine with two cards and not here."""
    config_args = pytest.importorskip("accelerate.commands.config.config_args")
    found = [block for block in BLOCKS if block.language == "yaml"]
    assert found
    for block in found:
        (tmp_path / "config.yaml").write_text(block.text)
        assert config_args.load_config_from_file(str(tmp_path / "config.yaml")).distributed_type == "FSDP"


def test_every_rule_is_needed():
    """A rule for a command that is documented no more."""
    assert {rule_of(command).begins for command in TYPED} == {rule.begins for rule in RULES}


# ------------------------------------------------------------------ what is run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the embedded model with LoRA, and its exported adapter."""
    folder = tmp_path_factory.mktemp("trained")
    assert main(shlex.split(f"train tiny_detection --train lora --dtype float32 {SHORT} --out {folder / 'run'}")) == 0
    assert main(shlex.split(f"export {folder / 'run'} --to adapter --out {folder / 'their_adapter'}")) == 0
    return folder


@pytest.fixture
def places(
    tmp_path: Path,
    root: Path,  # noqa: F811
    coco: DataConfig,  # noqa: F811
    miniature: Path,
    trained: Path,
) -> dict[str, Path]:
    """The folder in which a reader types: boxes of cats and mugs, pictures, runs, and the files that the pages name."""
    for name in ("runs/mine", "runs/own_coco_4shot"):
        shutil.copytree(trained / "run", tmp_path / name)
    (tmp_path / "their_adapter").symlink_to(trained / "their_adapter")
    (tmp_path / "photos").symlink_to(coco.images)
    coco.annotations.write_text(coco.annotations.read_text().replace('"dog"', '"mug"'))
    (tmp_path / "pictures").symlink_to(coco.images)
    (tmp_path / "cats.toml").write_text('[data]\nkind = "coco"\nannotations = "instances.json"\nimages = "pictures"\n')
    small = "prompts_per_step = 2\ngroup_size = 4\nmax_completion_length = 8\neval_samples = 4\nthreads = 1\n"
    (tmp_path / "demo.toml").write_text(f'model = "tiny"\n{small}')
    (tmp_path / "card16.toml").write_text(next(block.text for block in TABLES if "[data]" not in block.text))
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return {"desk": tmp_path, "root": root, "miniature": miniature}


@pytest.mark.parametrize("command", [command for command in TYPED if command.startswith("minirft ")])
def test_documented_commands_run(
    command: str, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A flag, a config, a file or an experiment under its former name; a command that no longer works."""
    monkeypatch.chdir(places["desk"])
    rule = rule_of(command)
    words = [rule.instead[1] if word == rule.instead[0] else word for word in shlex.split(command)]
    words = [word.format(**places) for word in [*words, *rule.also.split()]]
    assert main(words[1:]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out
    for flag, file in pairwise(words):
        assert flag != "--out" or Path(file).exists(), f"{file} was not written"


def test_documented_answers_of_fit(capsys: pytest.CaptureFixture[str]):
    """A peak of memory in a comment that the code has overtaken."""
    said = re.findall(r"^(minirft fit .+?) +# (fits: .+|does not)", "\n".join(block.text for block in BLOCKS), re.M)
    assert len(said) == 2
    for command, comment in said:
        assert main(shlex.split(command)[1:]) == 0
        assert re.search(rf"^{re.escape(comment)}", capsys.readouterr().out, re.M), command


@pytest.mark.parametrize("block", [b for b in PYTHON if b.text not in FILES.values()], ids=lambda block: block.page)
def test_python_examples_run(block: Block):
    """A first example that raises, or whose policy writes nothing."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(block.text, block.page, "exec"), {})
    assert "<answer>" in out.getvalue() or "think" in out.getvalue()


@pytest.mark.parametrize("block", TABLES, ids=lambda block: block.text.splitlines()[1])
def test_settings_to_paste_are_settings(block: Block):
    """Lines to paste that a run refuses."""
    from_table(GRPOConfig, tomllib.loads(block.text))


# ------------------------------------------------------------------ what surrounds it


def dry_make(words: list[str]) -> str:
    """The recipe that `make` would follow."""
    if shutil.which("make") is None:
        pytest.skip("no make here")
    done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def reads(requirements: list[str]) -> None:
    """Check the words behind `pip install`."""
    line = iter(requirements)
    for word in line:
        if word == "--no-deps":
            continue
        if word == "-c":
            assert (ROOT / next(line)).is_file()
            continue
        asked = Requirement(re.sub(r"^\.", "minirft", next(line) if word == "-e" else word))
        known = [Requirement(one) for one in sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"])]
        assert asked.name in {"minirft", *(one.name for one in known)}, asked
        assert asked.name != "minirft" or asked.extras <= set(PROJECT["optional-dependencies"]), asked


@pytest.mark.parametrize("command", sorted({command for command in TYPED if not command.startswith("minirft ")}))
def test_what_surrounds_it_is_there(command: str, tmp_path: Path, request: pytest.FixtureRequest):
    """A target, an extra or a file that is gone."""
    rule, words = rule_of(command), shlex.split(command)
    if rule.begins == "make":
        assert dry_make(words[1:]).strip()
    elif rule.begins == "pip install":
        reads(words[2:])
    elif rule.how == OTHERS:
        typed_in = (block for block in BLOCKS if block.language in SHELL and command in [*commands(block)])
        assert "**Not run here" in next(typed_in).page_text
    elif rule.begins in ("torchrun", "accelerate launch"):
        test_commands_in_sentences_exist(command.split(" -m ")[1])
    elif rule.begins == "pytest":
        assert request.config.inipath == ROOT / "pyproject.toml" and "tests" in request.config.getini("testpaths")
    else:
        made = tmp_path / ".venv"
        venv.create(made, with_pip=False)
        script = Path(words[-1])
        assert words[-1] == made.name or sys.platform == "win32" or (tmp_path / script).is_file()


@cache
def flags_of(*command: str) -> set[str]:
    """The flags that a command's help lists."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*command, "--help"])
    assert out.getvalue()
    return set(re.findall(r"--[\w.-]+", out.getvalue()))


@pytest.mark.parametrize("span", inline())
def test_commands_in_sentences_exist(span: str):
    """A sentence or a row of a table that names a command, a flag, a target or a file that does not exist."""
    program, *words = span.split()
    if program == "make":
        recipe = dry_make([re.sub(r'"', "", word) for word in re.findall(r'[\w=-]+"[^"]*"|\S+', span)[1:]])
        for line in re.findall(r"^\S*/(minirft .*)$", recipe, re.M):
            test_commands_in_sentences_exist(line)
    elif program == "minirft":
        name = words[:2] if words[0] == "data" else words[:1]
        assert " ".join(name) in COMMANDS
        flags = [flag for flag in re.findall(r"--[\w.-]+", span) if flag != "--field"]
        assert set(flags) <= flags_of(*name) | {"--help"}, span
    elif program == "pip":
        reads(shlex.split(span)[2:])
    elif program == "conda":
        assert (ROOT / re.search(r"-f (\S+)", span)[1]).is_file()
    elif program == "git":
        assert subprocess.run(["git", words[0], "-h"], capture_output=True, check=False).returncode in (0, 129), span
    elif program == "python":
        assert find_spec(words[1]) if words[0] == "-m" else (ROOT / words[0]).is_file(), span
    else:
        assert span == "pytest --slow", f"{span}: no rule says how to try it"
