"""LISA's metrics by hand and against one loop a sample, SAM of random weights, and `minirft eval --sam`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from readings import read
from safetensors.torch import load_file, save_file
from transformers import SamConfig, SamModel

from minirft import UserError
from minirft.commands.cli import main
from minirft.data.reasonseg import masks
from minirft.evaluation.masks import Sam, mask_metrics, mask_overlaps, mask_scores, mask_statistic
from minirft.evaluation.scores import bootstrap
from minirft.rewards import prompts
from minirft.samples import Sample
from minirft.tiny import world
from minirft.tiny.silhouettes import segment, true_mask

SIDE = 64  # of the picture that the small SAM sees


def answer(x1, y1, x2, y2):
    return f"<think>there</think> <answer>({x1},{y1}),({x2},{y2})</answer>"


def filled(picture, box):
    """A segmenter that takes the box for the object."""
    mask = np.zeros((picture.height, picture.width), dtype=bool)
    x1, y1, x2, y2 = box.round().astype(int)
    mask[y1:y2, x1:x2] = True
    return mask


def asked(name="0", size=(40, 20)):
    return Sample(name, Image.new("RGB", size), "grounding", "?", prompts.grounding_solution([0, 0, 500, 500]))


def rectangle(x1, y1, x2, y2, size=(40, 20)):
    return filled(Image.new("RGB", size), np.array([x1, y1, x2, y2]))


# ------------------------------------------------------------------ the metrics


def test_by_hand():
    """x and y swapped, a box left in the model's frame, ignored pixels counted, a failed answer left out."""
    samples = [asked(name) for name in "abcd"]
    nothing = rectangle(0, 0, 0, 0)
    truths = {
        "a": (rectangle(0, 0, 20, 10), nothing),
        "b": (rectangle(0, 0, 20, 10), rectangle(20, 0, 40, 10)),
        "c": (rectangle(10, 5, 20, 10), nothing),
        "d": (nothing, nothing),
    }
    texts = [answer(0, 0, 250, 500), answer(0, 0, 1000, 500), "I cannot see it", "nothing"]
    counts = mask_overlaps(texts, samples, filled, lambda sample: truths[sample.id])
    assert [count.tolist() for count in counts] == [[100, 200, 0, 0], [200, 200, 50, 0]]
    values, _ = mask_scores(texts, samples, filled, lambda sample: truths[sample.id])
    assert values["mask_giou"] == pytest.approx((0.5 + 1 + 0 + 1) / 4)  # LISA: two empty masks agree
    assert values["mask_ciou"] == pytest.approx(300 / 450)


def test_resamples_are_those_of_the_other_metrics():
    """Paired differences between box and mask metrics of two different resamples; weights that are not counts."""
    samples, rng = world.grounding(12, seed=2), np.random.default_rng(1)
    texts = [answer(*rng.integers(0, 500, 2), *rng.integers(500, 1001, 2)) for _ in samples]
    draws = mask_scores(texts, samples, segment, true_mask, resamples=30)[1]
    intersections, unions = mask_overlaps(texts, samples, segment, true_mask)
    rng = np.random.default_rng(0)
    for i in range(30):
        rows = np.repeat(np.arange(12), rng.multinomial(12, np.full(12, 1 / 12)))
        assert draws["mask_giou"][i] == pytest.approx((intersections / unions)[rows].mean())
        assert draws["mask_ciou"][i] == pytest.approx(intersections[rows].sum() / unions[rows].sum())
    boxes = bootstrap("grounding", texts, samples, resamples=30)[1]["acc50"]
    hits = np.array(
        [bootstrap("grounding", [text], [s], resamples=0)[0]["acc50"] for text, s in zip(texts, samples, strict=True)]
    )
    rng = np.random.default_rng(0)
    assert boxes == pytest.approx(rng.multinomial(12, np.full(12, 1 / 12), 30) @ hits / 12)


def test_true_boxes_are_nearly_perfect_and_failures_are_zero():
    """A box read in the wrong frame on the way to the tiny world's segmenter."""
    samples = world.held_out("grounding", 20)
    found = mask_metrics([sample.solution for sample in samples], samples, segment, true_mask)
    assert found["mask_giou"] > 0.97 and found["mask_ciou"] > 0.97
    low, high = found["ci"]["mask_giou"]
    assert low <= found["mask_giou"] <= high
    assert mask_metrics(["?"] * 20, samples, segment, true_mask)["mask_giou"] == 0


def test_nothing_to_divide_is_not_zero():
    """0 / 0 reported as a score, or as a NaN that JSON cannot hold."""
    empty = np.zeros((20, 40), dtype=bool)
    found = mask_metrics(["?"], [asked()], filled, lambda sample: (empty, empty))
    assert found == {"mask_giou": 1.0, "mask_ciou": None, "ci": {}}
    assert np.isnan(mask_statistic(np.zeros(1), np.zeros(1))(np.ones((1, 1)))["mask_ciou"]).all()


def test_wrong_sizes_are_refused():
    """A mask of the resized picture broadcast against the true one; answers that belong to other samples."""
    truth = lambda sample: (np.ones((20, 40), dtype=bool),) * 2  # noqa: E731
    with pytest.raises(ValueError, match=r"the mask found is \(1, 40\)"):
        mask_overlaps([answer(0, 0, 9, 9)], [asked()], lambda picture, box: np.ones((1, 40), dtype=bool), truth)
    with pytest.raises(ValueError, match="got 2 for 1 samples"):
        mask_scores(["", ""], [asked()], filled, truth)


# ------------------------------------------------------------------ SAM


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAM with 31 thousand random weights, in the layout of facebook/sam-vit-huge."""
    folder = tmp_path_factory.mktemp("sam")
    widths = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 32}
    sizes = {"image_size": SIDE, "patch_size": 16}
    vision = {"output_channels": 16, "num_pos_feats": 8, "window_size": 2, "global_attn_indexes": [1]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = SamConfig(
            vision_config=widths | sizes | vision,
            prompt_encoder_config={"hidden_size": 16, "mask_input_channels": 4} | sizes,
            mask_decoder_config=widths | {"iou_head_hidden_dim": 16},
        )
        SamModel(config).save_pretrained(folder)
    settings = {
        "image_processor_type": "SamImageProcessor",
        "processor_class": "SamProcessor",
        "size": {"longest_edge": SIDE},
        "pad_size": {"height": SIDE, "width": SIDE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def photo(path: Path | None = None) -> Image.Image:
    picture = Image.new("RGB", (100, 50), (90, 120, 90))
    ImageDraw.Draw(picture).rectangle((20, 10, 60, 30), fill=(200, 40, 40))
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    return picture


def test_sam_sees_the_box_in_its_own_frame(sam_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A box in the picture's pixels or in 0-1000 given to a model that counts in its resized picture."""
    sam, seen = Sam(sam_folder), {}
    real = sam.model.prompt_encoder.forward
    monkeypatch.setattr(sam.model.prompt_encoder, "forward", lambda **given: seen.update(given) or real(**given))
    mask = sam(photo(), np.array([10.0, 5.0, 50.0, 25.0]))
    assert mask.shape == (50, 100) and mask.dtype == bool
    assert seen["input_boxes"].tolist()[0][0] == pytest.approx([6.4, 3.2, 32.0, 16.0])  # 100 pixels became 64


def test_sam_takes_the_single_mask(sam_folder: Path):
    """Padding left in the mask, or one of the three masks for ambiguous prompts."""
    sam, box = Sam(sam_folder), [10.0, 5.0, 50.0, 25.0]
    inputs = sam.processor(photo(), input_boxes=[[box]], return_tensors="pt")
    inputs["input_boxes"] = inputs["input_boxes"].float()
    sizes = {"original_sizes": inputs.pop("original_sizes"), "reshaped_input_sizes": inputs.pop("reshaped_input_sizes")}
    with torch.no_grad():
        logits = sam.model(**inputs, multimask_output=False).pred_masks
    whole = torch.nn.functional.interpolate(logits[0], (SIDE, SIDE), mode="bilinear")[..., : SIDE // 2, :]
    expected = torch.nn.functional.interpolate(whole, (50, 100), mode="bilinear")[0, 0] > 0
    assert sizes["reshaped_input_sizes"].tolist() == [[SIDE // 2, SIDE]]
    assert (sam(photo(), np.array(box)) == expected.numpy()).all()


def test_what_is_no_sam_is_refused(sam_folder: Path, miniature: Path, tmp_path: Path):
    """A traceback, or random weights that score masks, where the folder is missing, another model's, or torn."""
    torn = tmp_path / "torn"
    torn.mkdir()
    for file in sam_folder.iterdir():
        (torn / file.name).write_bytes(file.read_bytes()[: 900 if file.suffix == ".safetensors" else None])
    for source in (tmp_path / "nowhere", miniature, torn):
        with pytest.raises(UserError, match=r"no SAM loads from .*; name a folder of one") as caught:
            Sam(source)
        assert "\n" not in str(caught.value)
    weights = load_file(sam_folder / "model.safetensors")
    lost = "mask_decoder.iou_token.weight"
    save_file({name: w for name, w in weights.items() if name != lost}, torn / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=f"lacks SAM's weight {lost}"):
        Sam(torn)


def test_eval_with_sam(sam_folder: Path, tiny_random: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Masks in another order than the answers, intervals of the boxes lost, or hours of answers before a refusal."""
    for name in ("0001", "0002"):
        photo(tmp_path / "test" / f"{name}.jpg")
        shapes = [{"label": "target", "points": [[20, 10], [60, 10], [60, 30], [20, 30]], "shape_type": "polygon"}]
        data = {"shapes": shapes, "text": ["what is red"], "is_sentence": True}
        (tmp_path / "test" / f"{name}.json").write_text(json.dumps(data))
    common = ["--model", str(tiny_random), "--quantize", "none", "--device", "cpu", "--dtype", "float32"]
    common += ["--max-completion-length", "4", "--max-pixels", "12544", "--max-prompt-length", "4096"]
    common += ["--out", str(tmp_path / "run"), "--sam", str(sam_folder), "--json"]
    command = ["eval", "reasonseg", "--data.folder", str(tmp_path), *common]
    assert main(command) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["mask_giou"] == 0 and row["box_iou"] == 0  # random letters are no box
    predictions, texts = Path(row["predictions"]), [answer(100, 100, 900, 900), answer(0, 0, 500, 500)]
    head, *rows = predictions.read_text().splitlines()
    rows = [json.dumps(json.loads(line) | {"text": text}) for line, text in zip(rows, texts, strict=True)]
    predictions.write_text("\n".join([head, *rows, ""]))
    assert main(command) == 0
    row = json.loads(capsys.readouterr().out)
    expected = mask_metrics(texts, read("reasonseg", tmp_path, part="test"), Sam(sam_folder), masks)
    assert 0 < expected["mask_giou"] == row["mask_giou"] and expected["mask_ciou"] == row["mask_ciou"]
    assert row["ci"]["mask_giou"] == expected["ci"]["mask_giou"] and "box_iou" in row["ci"]
    assert main(["eval", "tiny_detection", *common]) == 2
    assert "--sam scores masks, and tiny data has none" in capsys.readouterr().err
