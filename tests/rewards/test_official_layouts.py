"""The released rewards on layouts as models write them: values recorded from the released code, and an oracle."""

import json
import math
import random
import re
from pathlib import Path

import pytest

from minirft.rewards.readings import reading

RECORDED = Path(__file__).parents[3] / "shared" / "data" / "released_rewards.json"
SPACES = ["", "", " ", "  ", "\t", "\xa0", "\n", " \n"]


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded values are not at hand")
@pytest.mark.parametrize("task", ["detection", "classification", "grounding"])
def test_recorded_values(task: str) -> None:
    """Catches what tables of tidy answers cannot: white space inside the tags, mis-paired corners, cut-off lists."""
    rows, reward = json.loads(RECORDED.read_text(encoding="utf-8"))[task], reading(task, "official")
    assert len(rows) == 1500
    for row in rows:
        got = reward(row["completion"], row["solution"]).parts
        assert got == pytest.approx({name: row[name] for name in got}, abs=1e-9, rel=0), row


# ------------------------------------------------------------------ the oracle: the description, step by step


def one_line_answer(text: str) -> str:
    found = re.search(r"<answer>(.*?)</answer>", text)
    return (found.group(1) if found else text).strip()


def oracle_detection(completion: str, solution: str) -> tuple[float, float]:
    try:
        predictions, free = read_boxes(completion), [item["Position"] for item in read_boxes(solution)]
        objects, total, paid = len(free), 0.0, 0.0
        for item in sorted(predictions, key=lambda item: item["Confidence"], reverse=True):
            overlaps = [overlap(item["Position"], box) for box in free]
            best = max(overlaps, default=0.0)
            if best > 0.5:
                del free[overlaps.index(best)]
            total += best if best > 0.5 else 0.0
            paid += item["Confidence"] if best > 0.5 else 1 - item["Confidence"]
        return total / max(objects, len(predictions)), min(max(paid / len(predictions), 0.0), 1.0)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return 0.0, 0.0


def read_boxes(text: str) -> list[dict]:
    wrapped = f"<answer>{one_line_answer(text)}</answer>".replace("[[", "[").replace("]]", "]").replace("\n", "")
    inner = wrapped.split("<answer>", 1)[1].split("</answer>", 1)[0]
    if not inner.endswith("]"):
        before, comma, _ = inner.rpartition("},")
        inner = before + "}]" if comma else "unreadable"
    unique: list[dict] = []
    for item in json.loads(inner.replace("'", '"')):
        if all(item["Position"] != other["Position"] for other in unique):
            unique.append(item)
    return unique


def overlap(a: list[float], b: list[float]) -> float:
    ax1, ay1, ax2, ay2 = a
    bx1, by1, bx2, by2 = b
    common = max(0, min(ax2, bx2) - max(ax1, bx1)) * max(0, min(ay2, by2) - max(ay1, by1))
    return common / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - common) if common else 0.0


def oracle_label(completion: str, solution: str) -> float:
    answer, label = (re.sub("[ _]", "", one_line_answer(text).lower()) for text in (completion, solution))
    return float(answer in label or label in answer)


def oracle_grounding(completion: str, solution: str) -> float:
    answers = []
    for text in (completion, solution):
        found = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
        answers.append((found.group(1) if found else text).strip())
    if answers[0] == answers[1]:
        return 2.0
    point = r"\(\s*(\d+)\s*,\s*(\d+)\s*\)"
    pairs = [re.findall(rf"{point}\s*,\s*{point}", answer) for answer in answers]
    if not pairs[0]:
        return 0.0
    a, b = ([int(n) / 1000 for half in (slice(2), slice(2, 4)) for pair in p for n in pair[half]][:4] for p in pairs)
    common = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return common / union - (hull - union) / hull + 1


def oracle_format(completion: str) -> float:
    return float(bool(re.fullmatch(r"<think>.*?</think>\s*<answer>.*?</answer>", completion, re.DOTALL)))


# ------------------------------------------------------------------ layouts


def laid_out(rng: random.Random, answer: str, decoy: str) -> str:
    """The answer as a completion: tags or none, one block or two, white space anywhere, cut off or with more after."""
    pick = rng.choice
    if rng.random() < 0.2:
        answer = answer[: rng.randint(0, len(answer))]
    answer = pick(SPACES) + answer + pick(SPACES)
    thought = pick(["", "look", "x\ny", f"first {decoy}", f"<answer>{decoy}</answer>", f"<answer>\n{decoy}</answer>"])
    blocks = pick([f"<answer>{answer}</answer>"] * 4 + [f"<answer>{answer}</answer> <answer>{decoy}</answer>"])
    whole = f"<think>{thought}</think>{pick(SPACES)}{blocks}"
    layouts = [whole] * 6 + [blocks, answer, whole + pick(["\n", " done"]), pick([" ", "\n"]) + whole]
    return pick([*layouts, whole[: rng.randint(0, len(whole))]])


def some_box(rng: random.Random, near: list[int] | None = None) -> list[int]:
    if near is not None:
        return [value + rng.choice([0, 0, 3, -3, 10, -20]) for value in near]
    x, y = rng.randint(0, 800), rng.randint(0, 800)
    return [x, y, x + rng.randint(1, 190), y + rng.randint(1, 190)]


def some_item(rng: random.Random, truth: list[list[int]]) -> str:
    box: list = some_box(rng, rng.choice(truth) if truth and rng.random() < 0.7 else None)
    kind = rng.random()
    if kind < 0.08:
        box = box[::-1]
    elif kind < 0.16:
        box = rng.choice([box[:3], [*box, 1], [value + 0.5 for value in box]])
    confidence = rng.choice([0, 0.07, 0.35, 0.9, 1, 1.0, 2, -1])
    item = {"Position": box, "Confidence": confidence}
    if kind > 0.97:
        item = rng.choice([{"bbox_2d": box}, {"Position": box}, {**item, "label": "cat"}])
    if rng.random() < 0.3:
        item = dict(reversed(item.items()))
    return json.dumps(item) if rng.random() < 0.3 else str(item)


def some_list(rng: random.Random, truth: list[list[int]]) -> str:
    items = [some_item(rng, truth) for _ in range(rng.randint(0, 5))]
    if items and rng.random() < 0.2:
        items.append(items[0])
    text = "[" + rng.choice([", ", ",", ",\n"]).join(items) + "]"
    return rng.choice([text] * 6 + [f"[{text}]", text[:-1], text[:-2], text[1:-1], "No Objects"])


def some_corners(rng: random.Random, truth: list[int]) -> str:
    boxes = [some_box(rng, truth) if rng.random() < 0.7 else some_box(rng) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    if rng.random() < 0.1:
        boxes[0] = boxes[0][::-1]
    form = rng.choice(["({},{}),({},{})"] * 3 + ["( {} , {} ), ( {} , {} )", "({},{}) ({},{})", "[{}, {}, {}, {}]"])
    return rng.choice([", ", "\n", " "]).join(form.format(*(abs(value) for value in box)) for box in boxes)


def test_generated_detections() -> None:
    """Catches a list that the oracle reads otherwise, also one whose malformed element comes after the last match."""
    rng, reward, late = random.Random(0), reading("detection", "official"), 0
    for _ in range(4000):
        truth = [some_box(rng) for _ in range(rng.choice([0, 1, 1, 2, 3]))]
        items = [{"Position": box, "Confidence": 1} for box in truth]
        solution = f"<answer>{items if truth else 'No Objects'}</answer>"
        completion = laid_out(rng, some_list(rng, truth), some_list(rng, truth))
        expected = (*oracle_detection(completion, solution), oracle_format(completion))
        got = reward(completion, solution).parts
        assert tuple(got.values()) == pytest.approx(expected, abs=1e-9), (completion, solution)
        late += (
            expected[0] > 0 and re.search(r"\[(?:-?\d+, ){2}-?\d+\]|\[(?:-?\d+, ){4}-?\d+\]", completion) is not None
        )
    assert late > 20  # paid, although a position in it has three or five numbers


def test_generated_labels() -> None:
    """Catches white space that is compared, and a block that is looked for across lines."""
    rng, reward = random.Random(1), reading("classification", "official")
    names = ["Persian cat", "great_dane", "737-300", "bird of paradise", "rose", "Primrose"]
    for _ in range(2000):
        label = rng.choice(names)
        answer = rng.choice([label, label.upper(), label[:3], f"the {label}", rng.choice(names), "", "a\nb"])
        completion, solution = laid_out(rng, answer, rng.choice(names)), f"<answer>{label}</answer>"
        expected = {"accuracy": oracle_label(completion, solution), "format": oracle_format(completion)}
        assert reward(completion, solution).parts == expected, (completion, solution)


def test_generated_corners() -> None:
    """Catches corners read from the reasoning, and several boxes paired as written."""
    rng, reward = random.Random(2), reading("grounding", "official")
    for _ in range(4000):
        truth = some_box(rng)
        solution = "<answer>({},{}),({},{})</answer>".format(*truth)
        completion = laid_out(rng, some_corners(rng, truth), some_corners(rng, truth))
        try:
            expected = oracle_grounding(completion, solution)
        except ZeroDivisionError:  # mis-paired corners with a hull of no area: no finite value to agree on
            continue
        got = reward(completion, solution).parts
        assert got["iou"] == pytest.approx(expected, abs=1e-9, rel=1e-9), (completion, solution)
        assert got["format"] == oracle_format(completion) and math.isfinite(got["iou"])
