"""The layouts that people export: each written as its tool writes it, read into the same samples."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from readings import read

from minirft import UserError
from minirft.commands.cli import main
from minirft.data import findings as findings_module
from minirft.data.feed import held_out, training_set
from minirft.data.findings import Findings
from minirft.data.screening import Screening
from minirft.data.settings import DataConfig
from minirft.rewards.answers import parse, parse_detection
from minirft.runs.config import GRPOConfig

SIZE = (200, 100)
CAT = [[100, 100, 600, 600]]  # in thousandths: 20, 10 to 120, 60 pixels


@pytest.fixture(autouse=True)
def nothing_said_yet():
    findings_module.report.cache_clear()


def picture(path: Path, i: int = 0, size=SIZE, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (i, 40, 90)).save(path, **options)
    return path


def screened(data: DataConfig):
    screening = Screening(data)
    return training_set(data, screening), list(screening.findings.bad)


def boxes(samples) -> dict:
    return {s.category: parse_detection(s.solution).boxes.tolist() for s in samples}


# ------------------------------------------------------------------ YOLO


def yolo(folder: Path, label: str = "0 0.35 0.35 0.5 0.5\n", roboflow: bool = False) -> DataConfig:
    parts = {"train": "train", "val": "valid" if roboflow else "val"}
    for i, part in enumerate(parts.values()):
        inside = (part, "images") if roboflow else ("images", part)
        picture(folder.joinpath(*inside, "a.b.jpg"), i)
        picture(folder.joinpath(*inside, "none.jpg"), i + 5)
        labels = folder.joinpath(*(part if one == part else "labels" for one in inside))
        labels.mkdir(parents=True)
        (labels / "a.b.txt").write_text(label if part == "train" else "1 0.5 0.5 0.5 0.5\n")
    lines = [f"{p}: ../{name}/images" if roboflow else f"{p}: images/{name}" for p, name in parts.items()]
    names = "names: ['cat', 'dog']\nnc: 2" if roboflow else "path: /somewhere/else\nnames:\n  0: cat\n  1: dog"
    (folder / "data.yaml").write_text("\n".join([*lines, names]) + "\n")
    return DataConfig(kind="yolo", folder=folder, negatives=0.0)


@pytest.mark.parametrize("roboflow", [False, True])
@pytest.mark.parametrize("label", ["0 0.35 0.35 0.5 0.5\n", "0 .1 .1 .6 .1 .6 .6 .1 .6\n"], ids=["box", "polygon"])
def test_yolo(tmp_path, roboflow, label):
    """Catches centres read as corners, sides swapped, a polygon refused, and Roboflow's folders not found."""
    data = yolo(tmp_path, label, roboflow)
    samples, bad = screened(data)
    assert boxes(samples) == {"cat": CAT} and not bad
    assert {s.category for s in held_out(GRPOConfig(data=data))} == {"dog"}
    assert training_set(replace(data, folder=tmp_path / "data.yaml")) == samples
    absent = training_set(replace(data, negatives=0.9))
    assert {s.id.rsplit("/", 1)[1] for s in absent if "No Objects" in s.solution} == {
        "a.b.jpg:dog",
        "none.jpg:cat",
        "none.jpg:dog",
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 70 35 100 50", "has the number 100, but YOLO's are shares"),
        ("0 0.5 0.5", "not four numbers or a polygon"),
        ("0 0.5 0.5 nan 0.5", "not four numbers or a polygon"),
        ("7 0.5 0.5 0.2 0.2", "is of category 7"),
        ("cat 0.5 0.5 0.2 0.2", "is of category 'cat'"),
    ],
)
def test_a_bad_yolo_line_costs_its_sample(tmp_path, line, reason):
    """Catches a label file of pixels, or a torn line, that stops the run or is reported without its place."""
    data = yolo(tmp_path, f"0 0.35 0.35 0.5 0.5\n{line}\n1 0.5 0.5 0.5 0.5\n")
    samples, (bad,) = screened(data)
    assert bad.file.endswith("labels/train/a.b.txt") and bad.row == "line 2" and reason in bad.reason
    assert {s.category for s in samples} == ({"cat", "dog"} if "category" in reason else {"dog"})


def test_yolo_boxes_are_of_the_picture_upright(tmp_path):
    """Catches boxes of a phone's picture that lie across it: Ultralytics turns it before it reads the labels."""
    data = yolo(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "images" / "train" / "a.b.jpg", exif=exif)
    (sample,), _ = screened(data)
    assert sample.picture().size == SIZE[::-1] and sample.exact.boxes.round(9).tolist() == [[10, 20, 60, 120]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [", "is no YAML"),
        ("train: images/train\n", "needs the keys train and names"),
        ("train: images/gone\nnames: [cat]\n", "train is 'images/gone', and there is no"),
        ("- 1\n", "needs the keys"),
    ],
)
def test_a_wrong_data_yaml(tmp_path, text, message):
    """Catches a traceback of the YAML parser's, and a path that is not there without its name."""
    data = yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        training_set(data)
    assert "\n" not in str(caught.value)
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(UserError, match=r"no data\.yaml in"):
        training_set(data)


# ------------------------------------------------------------------ Pascal VOC

XML = """<annotation><folder>x</folder><filename>{name}</filename><size><width>200</width><height>100</height></size>
<object><name>{label}</name><difficult>0</difficult><bndbox><xmin>21</xmin><ymin>11</ymin><xmax>120</xmax>
<ymax>60</ymax></bndbox></object><object><name>crow</name><difficult>1</difficult><bndbox><xmin>1</xmin><ymin>1</ymin>
<xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"""


def voc(folder: Path, devkit: bool) -> DataConfig:
    for i, (part, label) in enumerate((("train", "cat"), ("val", "dog"))):
        place = folder / "Annotations" if devkit else folder / part
        picture((folder / "JPEGImages" if devkit else place) / f"{part}.jpg", i)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{part}.xml").write_text(XML.format(name=f"{part}.jpg", label=label))
        if devkit:
            (folder / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
            (folder / "ImageSets" / "Main" / f"{part}.txt").write_text(f"{part}\n")
    return DataConfig(kind="voc", folder=folder, negatives=0.0)


@pytest.mark.parametrize("devkit", [True, False])
def test_voc(tmp_path, devkit):
    """Catches boxes off by the one that VOC counts from, a difficult object asked for, and parts mixed up."""
    data = voc(tmp_path, devkit)
    samples, bad = screened(data)
    assert boxes(samples) == {"cat": CAT} and not bad
    assert boxes(held_out(GRPOConfig(data=data))) == {"dog": CAT}
    absent = training_set(replace(data, negatives=0.9))
    assert {s.category for s in absent} == {"cat"}  # the difficult crow is neither there nor absent


def test_voc_without_parts(tmp_path):
    """Catches LabelImg's files, beside their pictures, not found; a size of 0 that refuses them."""
    for i in range(3):
        picture(tmp_path / f"{i}.png", i)
        text = XML.format(name=f"{i}.png", label="cat")
        (tmp_path / f"{i}.xml").write_text(text.replace(">200<", ">0<").replace(">100<", ">0<") if i == 0 else text)
    samples, bad = screened(DataConfig(kind="voc", folder=tmp_path, negatives=0.0))
    assert [s.id for s in samples] == ["0:cat", "1:cat", "2:cat"] and not bad


def test_bad_voc_files_are_named(tmp_path):
    """Catches one torn .xml that stops the run, and an object without corners or a missing picture unnamed."""
    for i in range(60):
        if i != 3:
            picture(tmp_path / f"{i}.png", i)
        (tmp_path / f"{i}.xml").write_text(XML.format(name=f"{i}.png", label="cat"))
    (tmp_path / "1.xml").write_text("<annotation><object>")
    (tmp_path / "2.xml").write_text(XML.format(name="2.png", label="cat").replace("<xmin>21</xmin>", ""))
    samples, bad = screened(DataConfig(kind="voc", folder=tmp_path, negatives=0.0))
    assert len(samples) == 57
    assert [(Path(one.file).name, one.row) for one in bad] == [("1.xml", ""), ("2.xml", "object 1"), ("3.xml", "")]
    assert "cannot be read as XML" in bad[0].reason and "xmin" in bad[1].reason and "not there" in bad[2].reason


# ------------------------------------------------------------------ CSV


def csv(folder: Path, text: str, **options) -> DataConfig:
    for i in range(4):
        picture(folder / f"{i}.png", i)
    (folder / "a.csv").write_text(text, encoding="utf-8-sig")
    return DataConfig(kind="csv", annotations=folder / "a.csv", negatives=0.0, **options)


@pytest.mark.parametrize(
    "text",
    [
        "filename,width,height,class,xmin,ymin,xmax,ymax\n0.png,200,100,cat,20,10,120,60\n1.png,200,100,,,,,\n",
        "Label;X1;Y1;X2;Y2;Image\ncat;20,0;10;120;60;0.png\n;;;;;1.png\n",
        "image\tx\ty\tw\th\tlabel\n0.png\t20\t10\t100\t50\tcat\n1.png\t\t\t\t\t\n",
    ],
    ids=["TensorFlow", "German spreadsheet", "tabs, sides"],
)
def test_csv_boxes(tmp_path, text):
    """Catches columns taken by their place, sides read as corners, and a picture without boxes left out."""
    data = csv(tmp_path, text)
    samples, bad = screened(data)
    assert boxes(samples) == {"cat": CAT} and not bad
    assert [s.id for s in training_set(replace(data, negatives=0.5))] == ["0.png:cat", "1.png:cat"]


@pytest.mark.parametrize(("box_format", "box"), [("unit", ".1,.1,.6,.6"), ("thousand", "100,100,600,600")])
def test_csv_boxes_in_other_units(tmp_path, box_format, box):
    """Catches a setting that is ignored."""
    text = "image,x1,y1,x2,y2,label\n" + "".join(f"{i}.png,{box},cat\n" for i in range(4))
    samples, _ = screened(csv(tmp_path, text, box_format=box_format))
    assert [parse_detection(s.solution).boxes.tolist() for s in samples] == [CAT] * 4


def test_csv_labels(tmp_path):
    """Catches a row whose picture is missing that stops the run, and labels that the question does not list."""
    text = "image,label\n" + "".join(f"{i % 4}.png,{'cats' if i % 2 else 'dogs'}\n" for i in range(40)) + "9.png,cats\n"
    samples, (bad,) = screened(csv(tmp_path, text, task="classification", family="pet"))
    assert len(samples) == 40 and len({s.id for s in samples}) == 40
    assert samples[0].category == "dogs" and "The answer is one of: cats, dogs." in samples[0].problem
    assert bad.row == "line 42" and "names a picture that is not there" in bad.reason


def test_wrong_csv_files(tmp_path):
    """Catches a KeyError for a column that is called otherwise."""
    with pytest.raises(UserError, match=r"no column label or class .*it has image, kind"):
        training_set(csv(tmp_path, "image,kind\n0.png,cat\n"))
    with pytest.raises(UserError, match=r"no columns for boxes \(xmin.*it has image, label"):
        training_set(csv(tmp_path, "image,label\n0.png,cat\n"))
    rows = "".join(f"{i % 4}.png,20,10,120,60,cat\n" for i in range(60))
    samples, (bad,) = screened(csv(tmp_path, f"image,x1,y1,x2,y2,label\n{rows}0.png,1,2,x,4,dog\n"))
    assert len(samples) == 4 and bad.row == "line 62" and "not four numbers" in bad.reason


# ------------------------------------------------------------------ rows of other trainers

BOX = [20, 10, 120, 60]
ROWS = {
    "VLM-R1": {
        "id": 1,
        "image": "0.png",
        "conversations": [
            {"from": "human", "value": "<image>the taller cup"},
            {"from": "gpt", "value": "[20, 10, 120, 60]"},
        ],
    },
    "VLM-R1 REC": {"image": "0.png", "problem": "<image>the taller cup", "solution": BOX},
    "ms-swift": {
        "messages": [
            {"role": "user", "content": "<image>find <ref-object>"},
            {"role": "assistant", "content": "<bbox>"},
        ],
        "images": ["0.png"],
        "objects": {"ref": ["the taller cup"], "bbox": [BOX]},
    },
    "LLaMA-Factory": {
        "messages": [
            {"role": "system", "content": "You are helpful."},
            {"role": "user", "content": "<image>the taller cup"},
            {"role": "assistant", "content": "<|box_start|>(20,10),(120,60)<|box_end|>"},
        ],
        "images": ["0.png"],
    },
    "Qwen2.5-VL": {
        "messages": [
            {"role": "user", "content": "<image>the taller cup"},
            {"role": "assistant", "content": '```json\n[{"bbox_2d": [20, 10, 120, 60], "label": "cup"}]\n```'},
        ],
        "images": ["0.png"],
    },
}


def jsonl(folder: Path, rows: list, task: str = "grounding", **options) -> DataConfig:
    for i in range(4):
        picture(folder / f"{i}.png", i)
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return DataConfig(kind="jsonl", task=task, annotations=folder / "a.jsonl", negatives=0.0, **options)


@pytest.mark.parametrize("name", ROWS)
def test_grounding_rows(tmp_path, name):
    """Catches a trainer's rows that are not known, a mark left in the question, and pixels taken for thousandths."""
    (sample,), bad = screened(jsonl(tmp_path, [ROWS[name]]))
    assert parse("grounding", sample.solution).tolist() == CAT[0] and not bad
    assert sample.category == "the taller cup" and "instruction: the taller cup Output" in sample.problem
    asked = replace(jsonl(tmp_path, [ROWS[name]]), question="Show me {instruction}!")
    assert training_set(asked)[0].problem.startswith("Show me the taller cup!\nOutput the thinking process")


@pytest.mark.parametrize("name", ["ms-swift", "Qwen2.5-VL"])
def test_several_boxes_of_a_row_are_detection(tmp_path, name):
    """Catches what VLM-R1 #232 asks for: more boxes than one in a picture."""
    row = json.loads(json.dumps(ROWS[name]))
    if name == "ms-swift":
        row["objects"] = {"ref": ["cup", "cup", "dog"], "bbox": [BOX, [0, 0, 50, 50], [1, 2, 30, 40]]}
    else:
        text = '[{"bbox_2d": [20, 10, 120, 60], "label": "cup"}, {"bbox_2d": [0, 0, 50, 50], "label": "cup"}]'
        row["messages"][1]["content"] = text
    samples, bad = screened(jsonl(tmp_path, [row], task="detection"))
    assert boxes(samples)["cup"] == [*CAT, [0, 0, 250, 500]] and not bad
    with pytest.raises(UserError, match="no row with a question and one box"):
        training_set(jsonl(tmp_path, [row]))


@pytest.mark.parametrize(
    ("declared", "box", "advice"),
    [
        ("pixels", [0.1, 0.1, 0.6, 0.6], 'data.box_format = "unit"'),
        ("thousand", [0.1, 0.1, 0.6, 0.6], 'data.box_format = "unit"'),
        ("pixels", [100, 100, 600, 600], 'data.box_format = "thousand", in which all fit'),
        ("unit", BOX, 'data.box_format = "pixels", in which all fit'),
    ],
)
def test_units_that_the_numbers_contradict(tmp_path, declared, box, advice):
    """Catches a set that trains at reward 0, because 0 to 1000 was taken for pixels (VLM-R1 #143, #273)."""
    rows = [ROWS["VLM-R1 REC"] | {"image": f"{i}.png", "solution": box} for i in range(4)]
    with pytest.raises(UserError) as caught:
        training_set(jsonl(tmp_path, rows, box_format=declared))
    assert advice in str(caught.value) and "\n" not in str(caught.value)
    right = next(name for name in ("unit", "pixels", "thousand") if f'"{name}"' in advice)
    assert parse("grounding", training_set(jsonl(tmp_path, rows, box_format=right))[0].solution).tolist() == CAT[0]


@pytest.mark.parametrize(
    ("row", "why"), [('{"image": "1.jpg", "box": [1, 2, 3, 4]}', "no question"), ("{", "Expecting")]
)
def test_a_file_of_bad_grounding_rows_says_why(tmp_path, row, why):
    """Catches "has no row with a question and one box" for a misnamed column or broken JSON, without the reason."""
    (tmp_path / "rows.jsonl").write_text(row)
    data = DataConfig(kind="jsonl", task="grounding", annotations=tmp_path / "rows.jsonl")
    with pytest.raises(UserError, match=f"has no row with .*; the first bad row: .*rows.jsonl: row 1 is .*{why}"):
        training_set(data)


def test_bad_grounding_rows_cost_themselves(tmp_path):
    """Catches a torn line, a row about arithmetic, two pictures or an inverted box that stops the run."""
    good = [ROWS["VLM-R1 REC"] | {"image": f"{i % 4}.png"} for i in range(96)]
    wrong = [
        ROWS["VLM-R1 REC"] | {"solution": "4"},
        ROWS["VLM-R1 REC"] | {"images": ["0.png", "1.png"]},
        ROWS["VLM-R1 REC"] | {"solution": [120, 60, 20, 10]},
        ["no object"],
    ]
    data = jsonl(tmp_path, good + wrong)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"image": "0.p')
    samples, bad = screened(data)
    assert len(samples) == 96 and [one.row for one in bad] == [f"row {i}" for i in (97, 98, 100, 101, 99)]


# ------------------------------------------------------------------ the datasets library


def test_a_saved_set_with_labels(tmp_path):
    """Catches numbers taught for names, and the test split trained on."""
    datasets = pytest.importorskip("datasets")
    pictures = [Image.new("RGB", SIZE, (i, 9, 9)) for i in range(4)]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "big_dog"])})
    parts = {
        part: datasets.Dataset.from_dict({"img": pictures[i : i + 2], "label": [0, 1]}, features=features)
        for i, part in ((0, "train"), (2, "test"))
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "set"))
    data = DataConfig(kind="hf", task="classification", folder=tmp_path / "set", family="pet")
    samples, bad = screened(data)
    assert [(s.category, s.id) for s in samples] == [("cat", "set:train:0"), ("big dog", "set:train:1")] and not bad
    assert samples[1].picture().getpixel((0, 0)) == (1, 9, 9)
    assert [s.picture().getpixel((0, 0))[0] for s in held_out(GRPOConfig(data=data))] == [2, 3]


def test_a_saved_set_with_boxes(tmp_path):
    """Catches [x, y, width, height] read as corners, and a set of another form without a word on its columns."""
    datasets = pytest.importorskip("datasets")
    rows = {
        "image": [Image.new("RGB", SIZE, (i, 9, 9)) for i in range(2)],
        "objects": [{"bbox": [[20.0, 10.0, 100.0, 50.0]], "category": [1]}, {"bbox": [], "category": []}],
    }
    label = datasets.ClassLabel(names=["dog", "cat"])
    inner = {"bbox": datasets.List(datasets.List(datasets.Value("float32"))), "category": datasets.List(label)}
    features = datasets.Features({"image": datasets.Image(), "objects": inner})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "set"))
    data = DataConfig(kind="hf", folder=tmp_path / "set", negatives=0.0)
    samples, _ = screened(data)
    assert boxes(samples) == {"cat": CAT}
    with pytest.raises(UserError, match="has no column label"):
        training_set(replace(data, task="classification"))
    (tmp_path / "x.parquet").write_text("{}")
    with pytest.raises(UserError, match="it is JSON text"):
        training_set(replace(data, folder=tmp_path / "x.parquet"))


def test_a_stored_set_in_other_units_is_refused(tmp_path):
    """Catches a hub set whose boxes are shares, taken for pixels: every box was the picture's first one."""
    datasets = pytest.importorskip("datasets")
    rows = {
        "image": [Image.new("RGB", SIZE)] * 4,
        "objects": [{"bbox": [[0.1, 0.1, 0.5, 0.5]], "category": ["cat"]}] * 4,
    }
    inner = {
        "bbox": datasets.List(datasets.List(datasets.Value("float64"))),
        "category": datasets.List(datasets.Value("string")),
    }
    features = datasets.Features({"image": datasets.Image(), "objects": inner})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "set"))
    data = DataConfig(kind="hf", folder=tmp_path / "set", negatives=0.0)
    with pytest.raises(UserError, match=r'set data\.box_format = "unit"'):
        training_set(data)
    samples = training_set(replace(data, box_format="unit"))
    assert [parse_detection(s.solution).boxes.tolist() for s in samples] == [CAT] * 4


def test_a_stored_set_is_opened_once_until_it_changes(tmp_path, monkeypatch):
    """Catches a set opened for its parts, for training and for evaluation; one that changed and is not read anew."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    opened, load = [], datasets.load_from_disk
    monkeypatch.setattr(datasets, "load_from_disk", lambda place: opened.append(place) or load(place))

    def write(count: int) -> None:
        rows = {"image": [Image.new("RGB", SIZE, (i, 9, 9)) for i in range(count)], "label": ["cat"] * count}
        made = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
        datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(tmp_path / "set"))

    data = DataConfig(kind="hf", task="classification", folder=tmp_path / "set")
    write(2)
    assert len(training_set(data)) == len(held_out(GRPOConfig(data=data))) == 2 and len(opened) == 1
    write(3)
    assert len(training_set(data)) == 3 and len(opened) == 2


# ------------------------------------------------------------------ a folder of folders, and questions


def classes(folder: Path, *names: str, count: int = 2) -> None:
    for k, name in enumerate(names):
        for i in range(count):
            picture(folder / name / f"{i}.png", 10 * k + i + 100 * ("test" in str(folder)))
        (folder / name / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")


@pytest.mark.parametrize("other", ["test", "val", "valid"])
def test_a_folder_with_parts(tmp_path, other):
    """Catches "train" and "test" taught as labels, and the part that is to be held out trained on."""
    classes(tmp_path / "train", "cats", "dogs")
    classes(tmp_path / other, "cats", "dogs")
    data = DataConfig(kind="folder", task="classification", folder=tmp_path, family="pet")
    samples, bad = screened(data)
    assert [s.id for s in samples] == ["train/cats/0.png", "train/cats/1.png", "train/dogs/0.png", "train/dogs/1.png"]
    assert {s.category for s in samples} == {"cats", "dogs"} and not bad
    assert all(s.id.startswith(f"{other}/") for s in held_out(GRPOConfig(data=data)))


def test_classes_called_train_stay_classes(tmp_path):
    """Catches a set of vehicles whose class "train" is taken for a part."""
    classes(tmp_path, "train", "bus", "test")
    data = DataConfig(kind="folder", task="classification", folder=tmp_path)
    assert {s.category for s in training_set(data)} == {"train", "bus", "test"}


def test_a_closed_set_is_listed_in_its_question(tmp_path, caplog):
    """Catches "dog" answered for the folder "dogs", at reward 0 and without a word."""
    classes(tmp_path, "cats", "dogs")
    data = DataConfig(kind="folder", task="classification", folder=tmp_path, family="pet")
    assert "The answer is one of: cats, dogs." in training_set(data)[0].problem and not caplog.records
    with caplog.at_level(logging.WARNING):
        bare = training_set(replace(data, list_labels="no"))[0].problem
    assert "one of" not in bare and "labels such as 'cats' are plurals, and 'cat' would earn nothing" in caplog.text
    own = training_set(replace(data, question="Who sleeps here, {labels}?"))[0].problem
    assert own.startswith("Who sleeps here, cats, dogs?\nOutput the thinking process") and own.count("cats") == 1
    whole = "Who? Write <answer>...</answer>."
    assert training_set(replace(data, question=whole, list_labels="no"))[0].problem == whole


def test_near_misses_of_a_label_are_told_before_training(tmp_path, caplog):
    """Catches "dog" asked for of the folder "dogs", and "train/dogs" beside "test/dog", whose answers are all wrong."""
    classes(tmp_path / "train", "cats", "dogs")
    classes(tmp_path / "test", "cats", "Dog")
    data = DataConfig(kind="folder", task="classification", folder=tmp_path, categories=("cat",))
    with pytest.raises(UserError, match="has no category 'cat'; did you mean 'cats'"):
        training_set(data)
    with caplog.at_level(logging.WARNING):
        training_set(replace(data, categories=("CATS", "dogs", "Dog")))
    assert "has no category 'CATS' but 'cats', which is taken" in caplog.text
    assert "the labels 'dogs' and 'Dog' look like one class" in caplog.text


def test_a_phones_pictures_are_upright_for_classification(tmp_path):
    """Catches animals that lie on their sides."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "cat" / "0.jpg", exif=exif)
    picture(tmp_path / "dog" / "0.jpg")
    cat, dog = training_set(DataConfig(kind="folder", task="classification", folder=tmp_path))
    assert (cat.picture().size, dog.picture().size) == (SIZE[::-1], SIZE)


# ------------------------------------------------------------------ the commands


def test_every_layout_is_inspected_and_checked(tmp_path, capsys):
    """Catches a kind that `data inspect` cannot draw or `data check` does not open."""
    kinds = {
        "yolo": yolo(tmp_path / "yolo"),
        "voc": voc(tmp_path / "voc", True),
        "csv": csv(tmp_path / "csv", "image,label\n0.png,cat\n1.png,dog\n", task="classification"),
        "jsonl": jsonl(tmp_path / "jsonl", [ROWS["ms-swift"]]),
    }
    for kind, data in kinds.items():
        place = f"folder = '{data.folder}'" if data.folder else f"annotations = '{data.annotations}'"
        source, out = tmp_path / f"{kind}.toml", tmp_path / f"{kind}.png"
        source.write_text(f"[data]\nkind = '{kind}'\ntask = '{data.task}'\n{place}\n")
        assert main(["data", "inspect", str(source), "--out", str(out)]) == 0 and out.stat().st_size > 1000
        assert main(["data", "check", str(source)]) == 0
        assert " 0 bad" in capsys.readouterr().out


def test_a_split_works_with_the_config_that_made_it(tmp_path, capsys):
    """Catches a file refused for the config's own shots, and one that is gone because the command was repeated."""
    classes(tmp_path / "pets", "cats", "dogs", count=4)
    source, out = tmp_path / "mine.toml", tmp_path / "split.json"
    text = f"[data]\nkind = 'folder'\ntask = 'classification'\nfolder = '{tmp_path / 'pets'}'\nshots = 2\n"
    source.write_text(text)
    command = ["data", "split", str(source), "--shots", "2", "--out", str(out)]
    assert main(command) == 0 and main(command) == 0  # the same again is no other file
    before = out.read_text()
    assert main([*command, "--data.seed", "5"]) == 2
    assert "is there already and differs: name another --out" in capsys.readouterr().err and out.read_text() == before
    source.write_text(f"{text}split = '{out}'\n")
    assert main(["data", "inspect", str(source), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 4
    assert main(["data", "inspect", str(source), "--data.shots", "3"]) == 2
    assert "was drawn with 2; set it to that, or to 0" in capsys.readouterr().err
    source.write_text(text)
    assert main([*command, "--data.seed", "5", "--overwrite"]) == 0 and out.read_text() != before


@pytest.mark.parametrize("task", ["detection", "classification"])
def test_pictures_that_a_camera_turned_are_counted(tmp_path, task):
    """A table or a folder of a phone's pictures, turned without a word, though COCO's readers report it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGB", (60, 40)).save(tmp_path / "b.jpg")
    lines = ["image,xmin,ymin,xmax,ymax,label", "a.jpg,1,1,20,20,cat", "a.jpg,1,30,20,50,cat", "b.jpg,1,1,20,20,cat"]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    findings = Findings()
    read("csv", tmp_path / "rows.csv", task=task, findings=findings)
    assert findings.counts == {"pictures turned upright, as their annotations are": 1}
