"""Questions about new pictures: whose pixels the boxes are in, what agreement counts, and what a bad picture costs."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from minirft import UserError
from minirft.commands.asking import find_pictures, in_the_runs_words
from minirft.commands.cli import main
from minirft.data import DataConfig, question_of, training_set
from minirft.policy import Policy
from minirft.rewards import prompts
from minirft.runs.asking import Answer, Asking, _answers, ask, most_common, parse_answer, sample_of, wording
from minirft.runs.config import GRPOConfig
from minirft.samples import Sample
from minirft.show.pictures import mark
from minirft.tiny import world


def answer(policy: Policy, picture: Path | Image.Image, question: str, how: Asking) -> Answer:
    """The answer about a picture in memory too."""
    return _answers(policy, [policy.encode(sample_of(picture, question, how))], how, how.seed)[0].answer


KEYS = {"picture", "question", "text", "boxes", "confidence", "label", "failure"}


def boxes(*rows: tuple[list[int], float]) -> str:
    items = ", ".join(f"{{'Position': {box}, 'Confidence': {sure}}}" for box, sure in rows)
    return f"<think>a look</think> <answer>[{items}]</answer>"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two pictures of the tiny world, one damaged file and one that is no picture."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, sample in zip(("a.png", "b.PNG"), world.detection(2, seed=3), strict=True):
        sample.picture().save(folder / name)
    (folder / "c.jpg").write_bytes(b"cut off")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_boxes_are_in_pixels_of_the_picture_itself():
    """Width and height swapped, or boxes left in thousandths; a malformed box that spoils the others or goes unsaid."""
    sample = Sample("p.jpg", Path("p.jpg"), "detection", "?", "")
    text = boxes(([100, 200, 500, 1000], 0.7), ([900, 0, 100, 50], 0.5))
    found = parse_answer(sample, text, (640, 480))
    assert found.boxes == [[64, 96, 320, 480]] and found.confidence == [0.7]
    assert found.failure == "1 of 2 boxes are malformed"
    assert parse_answer(sample, "no idea", (640, 480)).failure == "no answer block"


def test_a_transparent_picture_in_memory_is_laid_on_white(tmp_path: Path):
    """A logo without a background asked about on black, though the same picture from a file lies on white."""
    clear = Image.new("RGBA", (8, 6), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    seen = []

    class Looking(Policy):
        def encode(self, sample):
            seen.append(sample.picture().getpixel((0, 0)))
            return super().encode(sample)

    policy = Looking.load("tiny")
    for picture in (clear, tmp_path / "clear.png"):
        answer(policy, picture, "cat", Asking(max_completion_length=1))
    assert seen == [(255, 255, 255), (255, 255, 255)]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_picture_is_turned_upright(tmp_path: Path, orientation: int):
    """A phone's photo asked about on its side: the EXIF tag says how it was held."""
    shown = Image.new("RGB", (40, 20), "white")
    shown.paste("red", (0, 0, 10, 10))  # the upright picture: red at the top left
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = shown.transpose(turn[orientation]) if orientation in turn else shown
    exif = Image.Exif()
    exif[274] = orientation
    stored.save(tmp_path / "p.png", exif=exif)
    assert sample_of(tmp_path / "p.png", "cat", Asking()).picture().tobytes() == shown.tobytes()


def test_agreement_is_the_share_of_answers_like_the_one_that_stands():
    """An unreadable answer that agrees with another one, boxes compared by their number only, or the odd one chosen."""
    near, far = [100, 100, 500, 500], [600, 600, 900, 900]
    answers = [boxes((far, 0.9)), boxes((near, 0.5)), boxes(([110, 100, 500, 510], 0.1)), "?", "?"]
    assert most_common("detection", answers) == (1, 2 / 5)
    assert most_common("detection", ["?", "?"]) == (0, 0.0)
    nothing = "<answer>No Objects</answer>"
    assert most_common("detection", [boxes((near, 1)), nothing, nothing]) == (1, 2 / 3)
    two = boxes((near, 0.5), (far, 0.5))
    assert most_common("detection", [two, boxes((far, 0.1), (near, 0.2)), boxes((near, 1))]) == (0, 2 / 3)


def test_a_name_becomes_the_papers_question_and_any_other_text_is_kept():
    """A category asked in words that the policy was not trained on; a whole question wrapped into another."""
    assert wording(" cat ", Asking("detection")) == prompts.detection("cat")
    assert wording("flower", Asking("classification")) == prompts.classification("flower")
    assert wording("Which cup is taller?", Asking("grounding")) == prompts.grounding("Which cup is taller?")
    for whole in ("Is there a cat?", prompts.detection("cat"), "Count.\nThen answer."):
        assert wording(whole, Asking("detection")) == whole


def test_a_run_is_asked_in_its_own_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A policy trained with the labels in its question, asked without them; "mugs" where "mug" was learnt."""
    for label in ("dogs", "tabby_cat"):
        (tmp_path / label).mkdir()
        Image.new("RGB", (30, 30)).save(tmp_path / label / "0.png")
    data = DataConfig("folder", "classification", folder=tmp_path, family="pet")
    config = GRPOConfig(data=data)
    trained = training_set(data)[0].problem
    assert "The answer is one of: dogs, tabby cat." in trained
    assert in_the_runs_words("", "classification", config) == trained
    assert in_the_runs_words("pet", "classification", config) == trained == question_of(data)
    assert in_the_runs_words("dogs", "detection", config) == "dogs"
    boxed = GRPOConfig(data=DataConfig("coco", categories=("mug",), question="Where is a {category}?"))
    assert in_the_runs_words("mugs", "detection", boxed) == "mugs"
    assert "the run was trained on 'mug'; 'mugs' is another question" in capsys.readouterr().err
    assert wording("mug", Asking("detection", boxed.data.question)) == question_of(boxed.data)


def test_sampled_and_greedy_answers_are_the_policys(tiny_random: Path, tmp_path: Path):
    """Answers of one picture under the name of the next where one in between will not open."""
    policy, how = Policy.load(tiny_random), Asking("detection", max_completion_length=12, batch=2)
    pictures = [Image.new("RGB", (60, 40), colour) for colour in ("red", "navy", "white")]
    alone = [answer(policy, picture, "cat", how).text for picture in pictures]
    assert len(set(alone)) > 1 or alone[0]  # a random model still writes something
    asked = [tmp_path / name for name in ("0.png", "bad.png", "1.png", "2.png")]
    for path, picture in zip((asked[0], *asked[2:]), pictures, strict=True):
        picture.save(path)
    asked[1].write_bytes(b"cut off")
    found = list(ask(policy, asked, "cat", how))
    drawn = list(ask(policy, asked[:1], "cat", Asking("detection", samples=3, max_completion_length=12)))
    assert [item.answer.text for item in found if item.picture] == alone
    assert [item.answer.picture for item in found] == [str(path) for path in asked]
    assert found[1].picture is None and "will not open" in found[1].answer.failure
    assert len(drawn[0].texts) == 3 and 0 <= drawn[0].agreement <= 1


def test_predict_prints_rows_of_the_contract(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A key renamed, boxes in thousandths, a line between the rows, a bad picture that ends it all."""
    out = tmp_path / "drawn"
    command = ["predict", "tiny_detection", str(photos), "--ask", "white heart", "--out", str(out), "--json"]
    torch.manual_seed(0)
    assert main(command) == 0
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [Path(row["picture"]).name for row in rows] == ["a.png", "b.PNG", "c.jpg"]
    assert all(row.keys() == KEYS and row["question"] == prompts.detection("white heart") for row in rows)
    for row in rows[:2]:
        assert len(row["confidence"]) == len(row["boxes"]) and row["failure"] is None
        assert all(0 <= x1 < x2 <= 112 and 0 <= y1 < y2 <= 112 for x1, y1, x2, y2 in row["boxes"])
    assert "c.jpg will not open" in rows[2]["failure"] and rows[2]["text"] == ""
    assert captured.err.count("\n") == 1 and "c.jpg" in captured.err
    assert sorted(file.name for file in out.iterdir()) == ["a.answer.png", "b.answer.png"]
    assert find_pictures([str(photos / "*.png"), str(photos)]) == [
        photos / name for name in ("a.png", "b.PNG", "c.jpg")
    ]
    with pytest.raises(UserError, match="subfolders are not searched"):
        find_pictures([str(out)])


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ((), "name a picture"),
        (("c.jpg",), "give --ask TEXT"),
        (("nowhere/*.jpg", "--ask", "cat"), "no picture in nowhere/*.jpg"),
        (("c.jpg", "--ask", "cat", "--task", "counting"), "counting"),
        (("c.jpg", "--ask", "cat", "--samples", "-1"), "--samples -1"),
    ],
)
def test_a_mistake_gets_one_line(more: tuple[str, ...], what: str, capsys: pytest.CaptureFixture[str]):
    """A traceback, or a model loaded before the mistake is found."""
    assert main(["predict", "tiny_detection", *more]) == 2
    captured = capsys.readouterr()
    assert what in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_only_bad_pictures_are_a_mistake(photos: Path, capsys: pytest.CaptureFixture[str]):
    """Exit code 0 for a call that answered nothing."""
    assert main(["predict", "tiny_detection", str(photos / "c.jpg"), "--ask", "cat"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("minirft: none of the 1 pictures")


def test_a_drawing_has_the_box_where_it_is():
    """A box drawn at half its place in an enlarged picture, or a label that runs out of the picture."""
    drawn = mark(Image.new("RGB", (100, 50), "white"), [[20, 10, 80, 40]], [0.5])
    assert drawn.size == (500, 250)
    coloured = [(x, y) for x in range(500) for y in range(60, 250) if drawn.getpixel((x, y)) not in ((255, 255, 255),)]
    assert min(x for x, _ in coloured) >= 98 and max(x for x, _ in coloured) <= 402
    assert max(y for _, y in coloured) <= 202
    for text in ("\ud800 \u202e 你好", "x" * 5000):
        assert mark(Image.new("RGB", (90, 700)), [[80, 0, 90, 5]], [1.0], text).width == 90


def test_a_sample_of_a_question_has_no_truth():
    """A new picture scored as if its truth were known."""
    assert sample_of(Image.new("RGB", (4, 4)), "cat", Asking("presence")).solution == ""
