"""The embedded world: what is drawn is what is asked, what is asked can be said, and the base is what its card says."""

import json
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

from minirft.engine.processor import load_processor
from minirft.experiments import gate
from minirft.experiments.pretrain import IGNORE, PretrainConfig, SideHeads, Stream, side_targets, text_loss
from minirft.policy import Policy
from minirft.rewards import answers, iou, prompts
from minirft.rewards.readings import reading
from minirft.tiny import CHECKPOINT, world
from minirft.tiny.annotators import (
    BROKEN_TAGS,
    CAREFUL_START,
    CONFIDENCES,
    QUICK_THOUGHT,
    THEREFORE,
    VERDICTS,
    annotate,
    careful,
    loose_box,
    quick,
)
from minirft.tiny.lookalikes import FAMILIES, render_lookalike
from minirft.tiny.model import new_model
from minirft.tiny.scenes import (
    BASE,
    CATEGORIES,
    COLOURS,
    FEWSHOT,
    GRID,
    NOVEL,
    RARE,
    SHAPES,
    SIDE,
    Scene,
    draw_scene,
    render,
)

ASKS = [world.ask_detection, world.ask_grounding, world.ask_classification, world.ask_presence]


@pytest.fixture(scope="module")
def tiny_policy() -> Policy:
    return Policy.load("tiny")


def questions(ask, n=150):
    return [ask(np.random.default_rng([7, index])) for index in range(n)]


def test_categories_split_as_the_papers():
    """A novel category among the base ones would make the open-vocabulary experiment meaningless."""
    assert (len(CATEGORIES), len(BASE), len(NOVEL), len(RARE), len(FEWSHOT)) == (80, 65, 15, 13, 8)
    assert not set(NOVEL) & set(BASE) and set(RARE) < set(BASE) and not set(FEWSHOT) & set(RARE)
    for word in {word for category in NOVEL for word in category.split()}:
        assert any(word in category.split() for category in BASE), f"{word} is never seen in a base category"


def test_novel_categories_are_never_drawn():
    """A novel category drawn as a distractor would leak into pretraining."""
    for ask in (world.ask_detection, world.ask_grounding, world.ask_presence):
        for question in questions(ask):
            assert not {thing.category for thing in question.scene.things} & set(NOVEL)


def test_true_boxes_hold_the_colour_and_nothing_outside_does():
    """Boxes in the wrong frame, x and y swapped or off by one would not touch the drawn object on all four sides."""
    for index in range(40):
        scene = draw_scene(np.random.default_rng(index), "blue circle", shattered=0.0)
        thing = scene.of("blue circle")[0]
        alone = np.asarray(render(Scene((thing,), 3)), dtype=float)
        empty = np.asarray(render(Scene((), 3)), dtype=float)
        ys, xs = np.nonzero(np.abs(alone - empty).sum(-1) > 60)
        x1, y1, x2, y2 = thing.box
        assert x1 <= xs.min() <= x1 + 2 and x2 - 3 <= xs.max() < x2, (thing, xs.min(), xs.max())
        assert y1 <= ys.min() <= y1 + 2 and y2 - 3 <= ys.max() < y2, (thing, ys.min(), ys.max())


def test_a_shattered_object_hides_its_place_but_stays_in_its_square():
    """A shattered object that can still be localised would make low confidence wrong."""
    seen = []
    for index in range(60):
        scene = draw_scene(np.random.default_rng(index), "red square", shattered=1.0)
        thing = scene.of("red square")[0]
        x1, y1, x2, y2 = thing.box
        left, top, right, bottom = thing.extent
        assert left <= x1 < x2 <= right <= SIDE and top <= y1 < y2 <= bottom <= SIDE
        middle = np.array([[left, top, left, top]]) + (60 - (x2 - x1)) / 2 + np.array([[0, 0, x2 - x1, y2 - y1]])
        seen.append(iou(middle, np.array([thing.box]))[0, 0])
    assert np.mean(np.array(seen) >= 0.5) < 0.5, "guessing the middle of the square must usually fail"


def test_samples_are_a_function_of_seed_and_index():
    """Samples that depend on n would change a run when its length changes."""
    short, long = world.detection(3, seed=5), world.detection(6, seed=5)
    for a, b in zip(short, long, strict=False):
        assert (a.id, a.problem, a.solution) == (b.id, b.problem, b.solution)
        assert a.picture().tobytes() == b.picture().tobytes()
    assert world.detection(3, seed=6)[0].solution != short[0].solution


def test_held_out_pictures_are_not_training_pictures():
    """A leak of held-out pictures into training would make every gain look larger."""
    streams = [world.held_out("detection", 40, seed) for seed in (world.VALIDATION, world.TEST)]
    held = {sample.picture().tobytes() for stream in streams for sample in stream}
    assert len(held) == 80 and not held & {
        sample.picture().tobytes() for seed in range(3) for sample in world.detection(40, seed)
    }


def test_one_question_in_five_is_about_an_absent_category():
    """With too few absent categories the ability to abstain is lost in training."""
    absent = [not question.things for question in questions(world.ask_detection, 600)]
    assert 0.17 < np.mean(absent) < 0.27


@pytest.mark.parametrize("ask", ASKS)
def test_solutions_parse_and_earn_full_marks(ask):
    """A solution that its own reward does not pay in full cannot be learnt from."""
    for question in questions(ask, 40):
        reward = reading(question.task, "strict")
        text = f"<think>so</think> {question.solution()}"
        score = reward(text, question.solution())
        assert score.failure is None and score.total == pytest.approx(sum(reward.weights.values())), (text, score)


def test_grounding_instructions_have_one_clear_answer():
    """Two equally large shapes would make the question a coin toss."""
    kinds = Counter()
    for question in questions(world.ask_grounding, 300):
        kinds[question.subject if question.subject in world.EXTREMES else "named"] += 1
        (thing,) = question.things
        if question.subject in world.EXTREMES:
            key, margin = world.EXTREMES[question.subject]
            others = [key(other) for other in question.scene.things if other is not thing]
            assert key(thing) - max(others) >= margin
        else:
            assert len(question.scene.of(question.subject.removeprefix("the "))) == 1
    assert set(kinds) == {*world.EXTREMES, "named"}


@pytest.mark.parametrize("family", FAMILIES)
def test_look_alikes_look_different(family):
    """Two classes drawn alike cannot be told apart by anyone."""
    drawn = {name: np.asarray(render_lookalike(family, name, 11), dtype=float) for name in FAMILIES[family]}
    for a in drawn:
        for b in drawn:
            assert a == b or np.abs(drawn[a] - drawn[b]).mean() > 0.25, (a, b)


# ------------------------------------------------------------------ annotators


def test_careful_answers_are_right_and_quick_ones_are_loose():
    """If the careful habit did not pay more, there would be nothing to amplify."""
    rng = np.random.default_rng(0)
    pay = {"careful": [], "quick": []}
    for question in questions(world.ask_detection, 200):
        for name, annotator in (("careful", careful), ("quick", quick)):
            pay[name].append(reading("detection", "strict")(annotator(question, rng), question.solution()).total)
    assert np.mean(pay["careful"]) > 2.5 > 2.0 > np.mean(pay["quick"])


@pytest.mark.parametrize("careful_share", [0.0, 1.0])
def test_both_annotators_break_tags_equally_often(careful_share):
    """Unequal breakage would let the format reward alone pick the careful habit."""
    rng = np.random.default_rng(1)
    texts = [annotate(question, rng, careful_share) for question in questions(world.ask_detection, 300)]
    broken = np.mean([not answers.is_well_formed(text) for text in texts])
    assert abs(broken - BROKEN_TAGS) < 0.09  # 3.9 standard errors


def test_loose_boxes_stay_on_the_picture_and_on_the_grid():
    """A loose box off the grid would need tokens that the tokenizer does not have."""
    rng = np.random.default_rng(2)
    allowed = {round(k * 1000 / 28) for k in range(29)}
    for question in questions(world.ask_detection, 100):
        for thing in question.things:
            x1, y1, x2, y2 = loose_box(thing, rng)
            assert {x1, y1, x2, y2} <= allowed and x1 < x2 and y1 < y2


# ------------------------------------------------------------------ tokenizer, model


@pytest.mark.parametrize("ask", ASKS)
def test_text_survives_the_tokenizer_in_few_tokens(ask):
    """A word without a token would be spelt in bytes and be learnt five times slower."""
    processor, rng = load_processor(str(CHECKPOINT), None, None), np.random.default_rng(3)
    tokenizer = processor.tokenizer
    for question in questions(ask, 60):
        text = annotate(question, rng)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert len(ids) <= 64 and len(processor(world.sample_of(question))["input_ids"]) <= 40


def phrases() -> Iterator[str]:
    """Every string of the tiny world that is one token."""
    blank = "\0"
    for template in (prompts.detection, prompts.grounding, prompts.presence):
        yield from template(blank).split(blank)
    yield from (prompts.classification(family) for family in FAMILIES)
    yield from ("system\nYou are a helpful assistant.", "user\n", "assistant\n", "\n")
    yield from ("<think>", "</think>", " <answer>", "<answer>", "</answer>", "No Objects", "yes", "no")
    yield from ("[{'Position': [", "], 'Confidence': ", "}, {'Position': [", "}]", "[]", "(", ",", "),(", ")", ", ")
    for k in range(SIDE // GRID + 1):
        yield from (number := str(round(k * 1000 / (SIDE // GRID))), f", {number}")
    yield from (*CONFIDENCES, QUICK_THOUGHT, CAREFUL_START, THEREFORE, *VERDICTS, "; ", "the ", " something")
    yield from (*COLOURS, *(f" {shape}" for shape in SHAPES), *world.EXTREMES)
    yield from (f", {size} " for size in ("small", "medium", "big", "shattered"))
    yield from ("top left", "top right", "bottom left", "bottom right", "top", "bottom", "left", "right", "middle")
    for family, classes in FAMILIES.items():
        yield from (family, *classes)
        for first, *others in classes.values():
            yield from (first, *(f", {other}" for other in others))


def test_the_tokenizer_has_a_token_for_each_phrase_of_the_world_and_no_other():
    """A colour or a class added to the world, which the shipped tokenizer would spell in bytes; a token left over."""
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    bytes_ = pre_tokenizers.ByteLevel.alphabet()
    words = {token for token in tokenizer.get_vocab() if token not in bytes_} - set(tokenizer.all_special_tokens)
    control = {token for token in words if token.startswith("<|")}
    assert words - control == {phrase for phrase in phrases() if phrase and phrase not in bytes_}
    assert len(tokenizer) == 477


def test_any_text_survives_the_tokenizer():
    """A tokenizer that cannot encode a user's text would fail on the first own prompt."""
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    for text in ("Où est le château ? 🏰", "<answer>[{'Position': [1, 2, 3, 4]}]</answer>", "tab\tand\nnewline"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_labels_are_the_completion_and_nothing_else():
    """A label shifted by one, or on the prompt, would teach another text than the annotators'."""
    batch = next(iter(Stream(PretrainConfig(batch=8), "skill", 1)))
    tokenizer, said = AutoTokenizer.from_pretrained(CHECKPOINT), batch["labels"] != IGNORE
    assert torch.equal(batch["labels"][said], batch["input_ids"][said])
    for row, mask in zip(batch["input_ids"], said, strict=True):
        text = tokenizer.decode(row[mask])
        assert text.endswith("<|im_end|>") and "answer" in text and "assistant" not in text


def test_side_targets_say_what_stands_in_each_cell():
    """Rows and columns of cells swapped would train the tower on a transposed picture."""
    question = world.ask_detection(np.random.default_rng(3), shattered=0.0, absent=0.0)
    cells = side_targets([question])["cells"][0]
    assert (cells[:, 0] != IGNORE).sum() == len(question.scene.things)
    for thing in question.scene.things:
        x1, y1, x2, y2 = thing.box
        cell = cells[(y1 + y2) // 2 // 28 * 4 + (x1 + x2) // 2 // 28]
        assert list(COLOURS)[cell[0]] == thing.colour and list(SHAPES)[cell[1]] == thing.shape
        assert cell[2:].tolist() == [x1 // 4, y1 // 4, x2 // 4, y2 // 4]


def test_both_stages_learn():
    """A picture paired with another question, or a loss that does not reach the weights."""
    torch.manual_seed(0)
    model = new_model(0)
    heads = SideHeads(model.config.text_config.hidden_size)
    batch = next(iter(Stream(PretrainConfig(batch=4), "skill", 1)))
    optimizer = torch.optim.AdamW([*model.parameters(), *heads.parameters()], lr=3e-3)
    trace = []
    for _ in range(25):
        features = model.model.visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"]).pooler_output
        text, side = text_loss(model, features, batch), heads(features, batch)
        optimizer.zero_grad()
        (text + 0.3 * side).backward()
        optimizer.step()
        trace.append((text.item(), side.item()))
    assert trace[-1][0] < 0.6 * trace[0][0] and trace[-1][1] < trace[0][1]


def test_pretraining_scores_text_as_the_plain_model_does():
    """A hand-built embedding or position error would make the saved model another one than the trained one."""
    model = new_model(1)
    batch = next(iter(Stream(PretrainConfig(batch=4), "skill", 1)))
    plain = model(**{name: value for name, value in batch.items() if name not in ("cells", "lookalike")}).loss
    features = model.model.visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"]).pooler_output
    assert text_loss(model, features, batch).item() == pytest.approx(plain.item(), abs=1e-5)


# ------------------------------------------------------------------ the shipped checkpoint


def test_shipped_folder_loads_in_plain_transformers():
    """A folder that only our own code can read is not a real Qwen2-VL."""
    model, info = Qwen2VLForConditionalGeneration.from_pretrained(CHECKPOINT, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in new_model(0).parameters())


def test_shipped_folder_is_small_and_has_its_papers():
    """A wheel that grew, or weights without their card, log and gate."""
    files = {path.name: path.stat().st_size for path in CHECKPOINT.iterdir()}
    assert sum(files.values()) < 8_000_000
    assert {"model.safetensors", "MODEL_CARD.md", "gate.json", "pretrain.jsonl", "chat_template.jinja"} <= set(files)
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]
    assert all(requirement.met for requirement in gate.requirements(json.loads((CHECKPOINT / "gate.json").read_text())))


def test_shipped_base_does_what_its_card_says(tiny_policy):
    """Weights that are not those the gate measured.  False alarm: 80 questions, 4 standard errors."""
    samples = world.held_out("detection", 80)
    careful_texts = gate.answers(tiny_policy, samples, greedy=True, forced=gate.FORCED)
    default_texts = gate.answers(tiny_policy, samples, greedy=True)
    assert all(text.startswith(f"<think>{CAREFUL_START}") for text in careful_texts)
    assert sum(gate.THINKS_CAREFULLY in text for text in default_texts) <= 8
    strict = reading("detection", "strict")

    def mean_iou(texts):
        return np.mean([strict(t, s.solution).parts["iou"] for t, s in zip(texts, samples, strict=True)])

    assert mean_iou(careful_texts) > mean_iou(default_texts) + 0.1


def test_a_users_picture_of_any_size_is_accepted(tiny_policy):
    """A photograph instead of a 112-pixel scene must be resized, not refused."""
    sample = world.detection(1, seed=0)[0]
    photo = type(sample)(
        sample.id, Image.new("RGB", (640, 427), (90, 90, 90)), "detection", sample.problem, sample.solution
    )
    assert int(tiny_policy.encode(photo).mm_token_type_ids.sum()) in range(12, 21)


def test_colours_are_far_apart():
    """Two colours that look the same would make categories ambiguous."""
    values = np.array(list(COLOURS.values()), dtype=float)
    distance = np.linalg.norm(values[:, None] - values[None], axis=-1)
    assert distance[~np.eye(len(values), dtype=bool)].min() > 60
