"""The benchmark for the first real weights, from end to end on small random ones, with both data sets' layouts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks.real import bench as cells
from benchmarks.real.__main__ import SETTINGS, check_encoder, main
from benchmarks.real.dataset import CUSTOM, DREAMBOOTH, Subject, read_data
from benchmarks.real.lora import lora_in
from benchmarks.real.plan import Options, cost, evenly
from benchmarks.real.rehearse import few_samples, make_tokenizer, save_stand_in
from conestool import Model, load, render
from conestool.errors import UsageError
from conestool.evaluation import load_clip, load_dino
from conestool.models.kv_weights import kv_weights
from conestool.models.model import Defaults
from conestool.search.methods.mask import LearnedMask
from tests.support.encoders import save_clip, save_dino
from tests.support.photos import noisy_photos
from tests.support.pretend_card import pretend_card

EXAMPLES = Path(__file__).parents[2] / "examples"
FEW = ["--steps", "2", "--method", 'mask,density=0.05,batch_size=2,num_class_images=4,num_crops=0,captions="none"']
FEW += ["--pictures", "2", "--class-pictures", "2", "--render-steps", "2", "--lora-rates", "0.1"]
PROMPT = "'a {0} {1}'.format(unique_token, class_token),\n"
METHODS = ["photos", "base model", "concept", "no identifier", "random indices", "LoRA 0.1"]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with those of CLIP and DINO."""
    folder = tmp_path_factory.mktemp("encoders")
    save_clip(folder / "clip")
    save_dino(folder / "dino")
    return folder


@pytest.fixture(scope="module")
def dreambooth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects in the layout of DreamBooth's data set."""
    return save_stand_in(tmp_path_factory.mktemp("dreambooth") / "dataset")


@pytest.fixture
def custom(tmp_path: Path) -> Path:
    """A subject in the layout of CustomConcept101, and one whose photos are not there."""
    folder = tmp_path / "customconcept101"
    shutil.copytree(EXAMPLES / "car", folder / "benchmark_dataset" / "transport_car1")
    (folder / "prompts").mkdir()
    (folder / "prompts" / "transport.txt").write_text("photo of a {}.\n\n{} at a beach. \n")
    entries = [
        {
            "instance_prompt": "photo of a <new1> car",
            "class_prompt": "car",
            "instance_data_dir": f"./benchmark_dataset/transport_car{number}",
            "class_data_dir": "./regularization/car",
            "prompt_filename": "prompts/transport.txt",
        }
        for number in (1, 2)
    ]
    (folder / "dataset.json").write_text(json.dumps(entries))
    return folder


def words(model: Path, data: Path, encoders: Path, out: Path, *more: str) -> list[str]:
    """A command line."""
    named = {"--model": model, "--data": data, "--clip": encoders / "clip", "--dino": encoders / "dino", "--out": out}
    return [str(word) for pair in named.items() for word in pair] + [*FEW, *more]


Again = Callable[..., int]


@pytest.fixture(scope="module")
def finished(epsilon_folder: Path, dreambooth: Path, encoders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run; tests copy it."""
    out = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as context, few_samples():
        context.setenv("CONES_CACHE", str(out / "cache"))
        assert main(words(epsilon_folder, dreambooth, encoders, out / "out")) == 0
    return out


@pytest.fixture
def again(
    finished: Path,
    epsilon_folder: Path,
    dreambooth: Path,
    encoders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Again:
    """The same command once more, on a copy of the run in `tmp_path/out`."""
    shutil.copytree(finished / "out", tmp_path / "out")
    monkeypatch.setenv("CONES_CACHE", str(finished / "cache"))

    def call(*more: str) -> int:
        with few_samples():
            return main(words(epsilon_folder, dreambooth, encoders, tmp_path / "out", *more))

    return call


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    """The rows of real.json by method."""
    return {row["method"]: row for row in json.loads((out / "real.json").read_text())["rows"]}


def test_everything_is_measured_beside_its_controls(finished: Path) -> None:
    rows = rows_of(finished / "out")
    assert list(rows) == METHODS
    assert [rows[method]["pictures"] for method in METHODS] == [10, 8, 8, 4, 4, 8]
    assert all(row["subjects"] == 2 and row["DINO"] and row["CLIP-I"] for row in rows.values())
    assert rows["photos"]["CLIP-T"] is None and rows["base model"]["class kept"] == pytest.approx(1, abs=1e-5)
    assert rows["LoRA 0.1"]["class kept"] < 1 and rows["concept"]["class like subject"]
    assert rows["concept"]["bytes"] and rows["LoRA 0.1"]["seconds"] and rows["random indices"]["bytes"] is None


def test_the_page_has_the_published_numbers_and_the_sheet_every_row(finished: Path) -> None:
    page = (finished / "out" / "real.md").read_text()
    assert page.startswith("# 2 of 2 subjects of DreamBooth") and "| DreamBooth, Stable Diffusion | 0.668 |" in page
    assert all(f"\n| {method} | " in page for method in METHODS) and "missing" not in page
    with Image.open(finished / "out" / "sheet.png") as sheet:
        assert sheet.height > 2 * 4 * 256 and sheet.width > 2 * 256


def test_every_find_and_every_picture_is_a_file(finished: Path, epsilon_folder: Path) -> None:
    folder = finished / "out" / "cells" / "rex" / "0"
    concept, lora = load(folder / "concept.cone").concepts[0], load_file(folder / "LoRA_0.1.safetensors")
    assert (concept.name, concept.class_noun) == ("rex", "dog") and concept.density == pytest.approx(0.05, rel=0.05)
    assert all(name.startswith("unet.") for name in lora) and len(list((folder / "concept").glob("*.png"))) == 6
    prompts = {path.name.rpartition("-")[0] for path in (finished / "out" / "cells" / "base").glob("*.png")}
    assert {prompt.rpartition("-")[0] for prompt in prompts} >= {"a-dog-in-the-snow", "a-cat-on-the-beach"}
    model = Model.from_pretrained(str(epsilon_folder))
    before = {name: weight.detach().clone() for name, weight in kv_weights(model.denoiser).items()}
    bare = render(model, "a dog", steps=2)[0].image.tobytes()
    with lora_in(model, folder / "LoRA_0.1.safetensors"):
        assert render(model, "a dog", steps=2)[0].image.tobytes() != bare
    assert render(model, "a dog", steps=2)[0].image.tobytes() == bare
    assert all(torch.equal(weight, before[name]) for name, weight in kv_weights(model.denoiser).items())


def test_a_lora_learns(finished: Path) -> None:
    """As many steps as the search, on the same batches: their first loss is the same, and the last one differs."""
    folder = finished / "out" / "cells" / "rex" / "0"
    lora, concept = (json.loads((folder / name / "found.json").read_text()) for name in ("LoRA_0.1", "concept"))
    assert len(lora["loss_curve"]) == len(concept["loss_curve"]) == 2
    assert lora["loss_curve"][0] == pytest.approx(concept["loss_curve"][0], rel=1e-3)
    assert lora["loss_curve"][1] != concept["loss_curve"][1]


def test_a_second_run_repeats_nothing(again: Again, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = (tmp_path / "out" / "real.md").read_text()
    for name in ("find", "train", "render"):
        monkeypatch.setattr(cells, name, None)
    assert again() == 0
    assert (tmp_path / "out" / "real.md").read_text() == before


def test_only_what_was_deleted_is_done_again(
    again: Again, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One picture of one LoRA; then a concept, with all that was drawn with it."""
    calls: list[Any] = []

    def counted(*args: Any, **more: Any) -> Any:
        calls.append(more["seeds"])
        return render(*args, **more)

    monkeypatch.setattr(cells, "render", counted)

    def done() -> list[str]:
        assert again() == 0
        return [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines() if line.startswith("[")]

    folder = tmp_path / "out" / "cells" / "rex" / "0"
    picture = sorted((folder / "LoRA_0.1").glob("a-*.png"))[0]
    before = Image.open(picture).convert("RGB").tobytes()
    picture.unlink()
    (folder / "LoRA_0.1" / "scores.json").unlink()
    assert [line.partition(": ")[0] for line in done()] == ["pictures, LoRA 0.1"] and [len(each) for each in calls] == [
        1
    ]
    assert Image.open(picture).convert("RGB").tobytes() == before
    found = (folder / "concept.cone").read_bytes()
    (folder / "concept.cone").unlink()
    redone = ["concept", "pictures, concept", "pictures, no identifier", "pictures, random indices"]
    assert [line.partition(": ")[0] for line in done()] == redone
    assert (folder / "concept.cone").read_bytes() == found


def test_a_stopped_search_resumes(
    again: Again, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between two steps: the search goes on behind the first one, and finds what it would have found."""
    folder = tmp_path / "out" / "cells" / "rex" / "0"
    found = (folder / "concept.cone").read_bytes()
    (folder / "concept.cone").unlink()
    steps: list[int] = []
    step = LearnedMask.step

    def stopped(self: LearnedMask, index: int) -> float:
        if index == 1 and 1 not in steps:
            steps.append(index)
            raise KeyboardInterrupt
        steps.append(index)
        return step(self, index)

    monkeypatch.setattr(LearnedMask, "step", stopped)
    monkeypatch.setattr("conestool.search.loop.SAVE_SECONDS", -1.0)
    assert again() == 130 and "the same command resumes" in capsys.readouterr().out
    assert (folder / "concept.search").exists()
    assert again() == 0 and steps == [0, 1, 1]
    assert (folder / "concept.cone").read_bytes() == found and not (folder / "concept.search").exists()


def test_what_fails_is_named_and_the_rest_is_done(
    again: Again, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No concept and no LoRA of one subject, nor pictures with them; the other subject has its own, and the next run
    tries again."""
    for name in ("rex", "cat"):
        shutil.rmtree(tmp_path / "out" / "cells" / name / "0")
    whole = {name: getattr(cells, name) for name in ("find", "train")}

    def broken(name: str) -> Callable[..., Any]:
        def work(context: Any, photos: Any, noun: str, *args: Any, **more: Any) -> Any:
            if noun == "dog":
                raise UsageError("no room on the disk")
            return whole[name](context, photos, noun, *args, **more)

        return work

    for name in whole:
        monkeypatch.setattr(cells, name, broken(name))
    assert again() == 1
    told, page = capsys.readouterr().out, (tmp_path / "out" / "real.md").read_text()
    assert "6 failed; the same command tries them again:\n  rex, seed 0: concept: no room on the disk" in told
    assert "rex, seed 0: pictures, LoRA 0.1: there is no LoRA 0.1 to draw with" in told
    assert "**4 parts are missing or failed.**" in page and rows_of(tmp_path / "out")["concept"]["subjects"] == 1
    for name, work in whole.items():
        monkeypatch.setattr(cells, name, work)
    assert again() == 0 and rows_of(tmp_path / "out")["concept"]["subjects"] == 2


def test_other_settings_are_refused(again: Again, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They would mix in one table; more rates and seeds do not, which have cells of their own."""
    assert again("--steps", "3") == 2
    told = capsys.readouterr().out
    assert "holds results of other settings: steps 2 -> 3" in told and "give another --out" in told
    assert json.loads((tmp_path / "out" / SETTINGS).read_text())["steps"] == 2
    assert again("--lora-rates", "0.1", "0.2", "--subjects", "cat") == 0
    assert "LoRA 0.2" in rows_of(tmp_path / "out") and rows_of(tmp_path / "out")["concept"]["subjects"] == 1


def test_custom_concept_101(
    custom: Path, epsilon_folder: Path, encoders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its text alignment is published as 2.5 cosines; subjects without photos are named."""
    assert main(words(epsilon_folder, custom, encoders, tmp_path / "out")) == 2
    told = capsys.readouterr().out
    assert "transport_car2: no such folder, for 1 of 2 subjects" in told and "--subjects transport_car1" in told
    with few_samples():
        assert main(words(epsilon_folder, custom, encoders, tmp_path / "out", "--subjects", "transport_car1")) == 0
    page = (tmp_path / "out" / "real.md").read_text()
    assert "# 1 of 2 subjects of CustomConcept101" in page and "| DreamBooth | 0.554 | 0.752 | 0.300 |" in page
    assert list(rows_of(tmp_path / "out")) == METHODS


@pytest.mark.long
def test_a_card_from_end_to_end(
    dreambooth: Path, epsilon_folder: Path, encoders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In float16, where the loss is scaled, and with as many samples at once as fit."""
    Model.from_pretrained(str(epsilon_folder))  # transformers imports its parts where no device is pretended
    more = ["--device", "cuda", "--dtype", "float16", "--subjects", "rex", "--prompts", "1"]
    more += ["--pictures", "1", "--class-pictures", "1"]
    with pretend_card("cuda"), few_samples():
        code = main(words(epsilon_folder, dreambooth, encoders, tmp_path / "out", *more))
    assert code == 0, capsys.readouterr().out
    assert list(rows_of(tmp_path / "out")) == METHODS


def test_reads_the_layouts_as_they_are_published(dreambooth: Path, custom: Path) -> None:
    found = read_data(dreambooth.parent)
    assert found.name == DREAMBOOTH and [subject.name for subject in found.choose(None)] == ["rex", "cat"]
    expected = Subject("rex", "dog", dreambooth / "rex", ("a {} in the snow", "a {} on the beach"))
    assert found.choose(["rex"]) == [expected] and read_data(dreambooth).subjects[0] == expected
    other = read_data(custom)
    assert other.name == CUSTOM and other.subjects[0].templates == ("photo of a {}.", "{} at a beach.")


def test_live_subjects_have_prompts_of_their_own(tmp_path: Path) -> None:
    """DreamBooth's file does not say which are live; its page counts the dogs and cats."""
    lines = ["Classes", "", "subject_name,class", "bear_plushie,stuffed animal", "cat2,cat", "", "Prompts", ""]
    for title, rest in (("Object Prompts", "in the jungle"), ("Live Subject Prompts", "wearing a red hat")):
        lines += [title, "", "prompt_list = [", f"'a {{0}} {{1}} {rest}'.format(unique_token, class_token)", "]", ""]
    (tmp_path / "prompts_and_classes.txt").write_text("\n".join(lines))
    plushie, cat = read_data(tmp_path).subjects
    assert (plushie.noun, plushie.templates) == ("stuffed animal", ("a {} in the jungle",))
    assert (cat.noun, cat.templates) == ("cat", ("a {} wearing a red hat",))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "neither prompts_and_classes.txt"),
        ({"prompts_and_classes.txt": "Classes\n\ndog,dog\n"}, "has no Object Prompts"),
        ({"prompts_and_classes.txt": f"Object Prompts\n{PROMPT}Live Subject Prompts\n{PROMPT}"}, "lists no classes"),
        ({"dataset.json": "[{"}, "not JSON"),
        ({"dataset.json": "{}"}, "not a list of subjects"),
        ({"dataset.json": '[{"class_prompt": "car"}]'}, "entry 0 has no instance_data_dir"),
        (
            {"dataset.json": '[{"class_prompt": "car", "instance_data_dir": "a/car1", "prompt_filename": "p.txt"}]'},
            "p.txt: no such file, and car1 has its prompts there",
        ),
    ],
)
def test_a_data_set_that_lacks_something(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_data(tmp_path)
    assert caught.value.hint


def test_faults_are_named_before_any_work(
    dreambooth: Path, epsilon_folder: Path, encoders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of subjects, photos and encoders; nothing is loaded or written."""

    def told(data: Path, kinds: Path, *more: str) -> str:
        assert main(words(epsilon_folder, data, kinds, tmp_path / "out", *more)) in (2, 3)
        return capsys.readouterr().out

    assert "DreamBooth has no subject fox\n  there are: rex, cat" in told(dreambooth, encoders, "--subjects", "fox")
    broken = Path(shutil.copytree(dreambooth, tmp_path / "broken"))
    (broken / "cat" / "6.jpg").write_bytes(b"\xff\xd8\xff\x00")
    assert "6.jpg: " in told(broken, encoders)
    bare = Path(shutil.copytree(encoders, tmp_path / "bare"))
    (bare / "dino" / "model.safetensors").unlink()
    assert "dino: no .safetensors weights in it\n  make them of pytorch_model.bin: " in told(dreambooth, bare)
    (bare / "clip" / "config.json").unlink()
    assert "clip: no config.json in it" in told(dreambooth, bare)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["clip", "dino"])
def test_what_is_said_makes_weights_that_load(encoders: Path, tmp_path: Path, name: str) -> None:
    """Of a folder as the Hub has it, with pickled weights alone."""
    folder = Path(shutil.copytree(encoders / name, tmp_path / name))
    file = folder / "model.safetensors"
    torch.save(load_file(file), folder / "pytorch_model.bin")
    file.unlink()
    with pytest.raises(UsageError, match=r"no \.safetensors weights") as caught:
        check_encoder(folder)
    _, code, _ = str(caught.value.hint).split('"')
    exec(code)  # noqa: S102
    assert check_encoder(folder)
    read: Any = load_clip if name == "clip" else load_dino
    before, after = (read(str(place), True).features(noisy_photos()) for place in (encoders / name, folder))
    assert torch.equal(before, after)


def test_the_plan_counts_what_a_run_draws(finished: Path, dreambooth: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All pictures of the run, and the whole groups of class images and of other nouns."""
    files = len(list((finished / "out" / "cells").rglob("*.png")))
    assert main(["--data", str(dreambooth), *FEW, "--plan"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("2 searches, ") and told[1].startswith("2 LoRAs, ")
    assert told[2].startswith(f"{files + 2 * 2 * 8} pictures, ") and "not measured" in told[3]


def test_all_but_the_plan_needs_its_folders(dreambooth: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--data", str(dreambooth), "--model", "x"])
    assert "required, but for --plan: --clip, --dino, --out" in capsys.readouterr().err


def test_the_cost_of_a_search_follows_its_terms(dreambooth: Path) -> None:
    """By hand, in TFLOP: 24 samples a step; 128 targets for three terms and 7 losses of 64; captions of ten photos."""
    subjects = read_data(dreambooth).subjects
    twice = cost(subjects, 2, Options(), 10, Defaults())
    captions = 2 * 10 * 4 * 18 * 0.68
    assert (twice.searches, twice.loras) == (4, 8)
    assert twice.search_tflop == pytest.approx(4 * (60 * 24 * 1.36 + (3 * 128 + 7 * 64) * 0.68) + captions)
    assert twice.lora_tflop == pytest.approx(8 * (60 * 24 * 1.36 + 3 * 128 * 0.68))
    alone = cost(subjects, 2, Options(method='mask,other_class_weight=0,captions="none"'), 10, Defaults())
    assert alone.search_tflop == pytest.approx(4 * (60 * 24 * 1.36 + (2 * 128 + 7 * 64) * 0.68))


def test_prompts_are_chosen_evenly() -> None:
    subject = Subject("x", "dog", Path(), tuple(f"{{}} {number}" for number in range(25)))
    assert [text[3:] for text in Options(prompts=4).templates(subject)] == ["0", "6", "12", "18"]
    assert Options().templates(subject) == subject.templates == Options(prompts=99).templates(subject)
    assert evenly(("snow", "beach"), 4) == ("snow", "beach")


def test_the_vocabulary_of_clip_becomes_a_tokenizer(tmp_path: Path) -> None:
    """In the order of OpenAI's own: bytes, bytes at a word's end, merges."""
    import gzip

    with gzip.open(tmp_path / "bpe.txt.gz", "wt", encoding="utf-8") as file:
        file.write('"bpe_simple_vocab_16e6.txt#version: 0.2\n' + "\n".join(["d o", "do g</w>", *["x y"] * 48892]))
    tokenizer = make_tokenizer(tmp_path / "tokenizer", tmp_path / "bpe.txt.gz")
    assert tokenizer.convert_ids_to_tokens([0, 256, 512, 513]) == ["!", "!</w>", "do", "dog</w>"]
    assert tokenizer("dog", add_special_tokens=False).input_ids == [513]
