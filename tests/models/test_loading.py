"""Loading base models: every place they may be in, and an error in one line for everything else."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from subprocess import run

import pytest
import torch
from safetensors.torch import load_file, save_file

from conestool.errors import DeviceError, ModelLoadError, OutOfMemoryError, UsageError
from conestool.models import loading
from conestool.models.devices import memory_errors, pick_device, pick_dtype
from conestool.models.loading import is_hub_id, wrap_hub_errors
from conestool.models.model import Defaults, Model
from tests.support.model_files import list_spare_parts
from tests.support.pretend_card import pretend_card
from tests.support.tiny_models import make_pipeline, save_pipeline


def test_loads_a_folder_with_its_own_defaults(epsilon_folder: Path) -> None:
    """Steps, guidance and size come from pocket.json; on the CPU auto is float32. "pocket" is in the package."""
    model = Model.from_pretrained(str(epsilon_folder))
    assert model.defaults == Defaults(4, 3.0, 32)
    assert (model.device.type, model.dtype, model.stored_dtype) == ("cpu", torch.float32, torch.float32)
    assert model.family.name == "stable-diffusion" and model.vae_scale_factor == 4
    assert not model.denoiser.training
    assert loading.pocket_folder() == Path(loading.__file__).parents[1] / "pocket"


def test_wraps_a_pipeline_in_memory(epsilon_folder: Path, tmp_path: Path) -> None:
    """Without pocket.json the size is the U-Net's, a Model is left as it is, and no folder leaks through the id."""
    pipe = make_pipeline(tmp_path)
    model = Model.from_pipeline(pipe)
    assert model.defaults == Defaults(30, 7.5, 32) and model.id == "pipeline" and model.denoiser is pipe.unet
    assert Model.from_pipeline(model) is model
    pipe.register_to_config(_name_or_path="owner/name")
    assert Model.from_pipeline(pipe).id == "owner/name"
    pipe.register_to_config(_name_or_path=str(epsilon_folder))
    assert Model.from_pipeline(pipe).id == "pipeline" and Model.from_pipeline(pipe).defaults.steps == 4
    assert Model.from_pretrained(str(epsilon_folder)).info.id == epsilon_folder.name


def test_tells_hub_ids_from_paths() -> None:
    """Only owner/name can mean the Hub."""
    ids = ("owner/name", "stable-diffusion-v1-5/stable-diffusion-v1-5")
    paths = ("pocket2", "./owner/name", "~/name", "/owner/name", "a/b/c", "models/x.safetensors", "models/x.gguf")
    assert all(map(is_hub_id, ids)) and not any(map(is_hub_id, paths))


def test_a_missing_path_is_never_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that is not there, also one below a folder that is, is a usage error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for path in ("nowhere", "./no/where", "models/sd15", str(tmp_path / "x.safetensors")):
        with pytest.raises(UsageError, match="no such model") as caught:
            Model.from_pretrained(path)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(("offline", "words"), [(True, "not on this machine"), (False, "HF_HUB_OFFLINE forbids")])
def test_an_id_that_is_not_cached_is_explained_offline(offline: bool, words: str) -> None:
    """With offline, or the variable that the tests set, nothing is fetched, and the message says what to do."""
    with pytest.raises(ModelLoadError, match=f"owner/name: {words}") as caught:
        Model.from_pretrained("owner/name", offline=offline)
    assert caught.value.exit_code == 7 and "--offline" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        ("GatedRepoError", "gated on the Hub"),
        ("RevisionNotFoundError", "no revision 'v9'"),
        ("RepositoryNotFoundError", "no such model here or on the Hub"),
        ("HfHubHTTPError", "the Hub cannot be used: the reason"),
    ],
)
def test_explains_what_the_hub_answers(cause: str, message: str) -> None:
    """Also behind the error in which diffusers wraps it."""
    from huggingface_hub import errors

    kind = getattr(errors, cause)
    answer = kind.__new__(kind)  # its __init__ wants a response of the HTTP library in use
    answer.args = ("the reason\nmore",)
    with pytest.raises(ModelLoadError, match=message) as caught, wrap_hub_errors("owner/name", "v9", False):
        raise OSError("Cannot load model") from answer
    assert "\n" not in str(caught.value) and caught.value.hint


def broken(folder: Path, change: str) -> Path:
    """A copy of a model folder with one thing wrong."""
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    if change == "no index":
        (folder / "model_index.json").unlink()
    elif change == "pickle only":
        weights.rename(weights.with_name("diffusion_pytorch_model.bin"))
    elif change == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif change == "no tokenizer":
        shutil.rmtree(folder / "tokenizer")
    elif change == "no vocabulary":
        for file in (folder / "tokenizer").iterdir():
            file.unlink()
    elif change == "bad json":
        (folder / "pocket.json").write_text("{")
    elif change == "other class":
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "NoSuchPipeline"}))
    return folder


@pytest.mark.parametrize(
    "change", ["no index", "pickle only", "truncated", "no tokenizer", "no vocabulary", "bad json", "other class"]
)
def test_explains_a_damaged_folder(tmp_path: Path, epsilon_folder: Path, change: str) -> None:
    """One line, exit code 7, for every way in which a folder may be damaged; nothing is unpickled."""
    folder = broken(Path(shutil.copytree(epsilon_folder, tmp_path / "model")), change)
    with pytest.raises(ModelLoadError) as caught:
        Model.from_pretrained(str(folder))
    assert "\n" not in str(caught.value) and "model" in str(caught.value)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4265146304\n"


@pytest.mark.parametrize(
    ("name", "data", "what", "hint"),
    [
        ("sd15.safetensors", POINTER, "a git-lfs pointer", "git lfs pull"),
        ("flux-Q4.gguf", b"GGUF\3\0\0\0" + bytes(100), "a GGUF file", "float16"),
        ("named.safetensors", b"GGUF\3\0\0\0" + bytes(100), "a GGUF file", "float16"),
        ("dog.cone", b"\x93CONE" + bytes(100), "a concept, and not a base model", "base model"),
        ("old.ckpt", b"PK\3\4" + bytes(100), "a pickled checkpoint", "never loaded"),
        ("renamed.safetensors", b"PK\3\4" + bytes(100), "a pickled checkpoint", "never loaded"),
        ("page.safetensors", b"<!DOCTYPE html><html>", "a web page", "download"),
        ("nothing.safetensors", b"", "an empty file", "again"),
        ("noise.safetensors", b"\xff" * 100, "", ""),
        ("model.onnx", b"\x08\x07" + bytes(100), "not a .safetensors file", "diffusers folder"),
    ],
)
def test_says_what_a_file_is_that_is_no_base_model(
    tmp_path: Path, name: str, data: bytes, what: str, hint: str
) -> None:
    """By its first bytes, whatever it is called; exit code 7, and what to give instead."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ModelLoadError) as caught:
        Model.from_pretrained(str(tmp_path / name))
    assert f"{name}: {what}" in str(caught.value) and hint in str(caught.value.hint)
    assert caught.value.exit_code == 7


@pytest.mark.parametrize(
    "part", ["unet/diffusion_pytorch_model.safetensors", "tokenizer/merges.txt", "vae/config.json"]
)
def test_a_folder_without_git_lfs_is_named_as_such(tmp_path: Path, epsilon_folder: Path, part: str) -> None:
    """Any of its files may be a pointer."""
    folder = Path(shutil.copytree(epsilon_folder, tmp_path / "model"))
    (folder / part).write_bytes(POINTER)
    with pytest.raises(ModelLoadError, match="a git-lfs pointer") as caught:
        Model.from_pretrained(str(folder))
    assert part in str(caught.value) and "git lfs pull" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        ("lora_unet_mid_block.lora_up.weight", "a LoRA"),
        ("transformer.transformer_blocks.0.attn.to_k.lora_A.weight", "a LoRA"),
        ("down_blocks.0.resnets.0.conv1.weight", "a denoiser alone"),
        ("encoder.conv_in.weight", "an autoencoder alone"),
        ("text_model.embeddings.token_embedding.weight", "a text encoder alone"),
        ("something.weight", "not a complete checkpoint"),
    ],
)
def test_says_which_part_of_a_model_a_file_is(tmp_path: Path, epsilon_folder: Path, tensor: str, what: str) -> None:
    """By the names of its tensors; every one with what to give instead."""
    save_file({tensor: torch.zeros(1)}, tmp_path / "part.safetensors")
    with pytest.raises(ModelLoadError, match=rf"part\.safetensors: {what}") as caught:
        Model.from_pretrained(str(tmp_path / "part.safetensors"), config=str(epsilon_folder))
    assert caught.value.hint


@pytest.mark.parametrize(
    "name", ["StableDiffusionImg2ImgPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionInpaintPipeline"]
)
def test_refuses_a_pipeline_that_does_not_draw_from_text(tmp_path: Path, epsilon_folder: Path, name: str) -> None:
    """Before its weights are read, though its parts would fit; the classes that do are named."""
    folder = Path(shutil.copytree(epsilon_folder, tmp_path / "model"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": name}))
    with pytest.raises(ModelLoadError, match=f"its pipeline is {name}") as caught:
        Model.from_pretrained(str(folder))
    assert "StableDiffusionPipeline" in str(caught.value.hint)


def test_parts_that_nothing_needs_may_be_absent(tmp_path: Path, epsilon_folder: Path) -> None:
    """Listed as in published folders, and not copied along, or copied as an empty folder."""
    folder = Path(shutil.copytree(epsilon_folder, tmp_path / "model"))
    index = list_spare_parts(folder)
    (folder / "feature_extractor").mkdir()
    pipe = Model.from_pretrained(str(folder)).pipe
    assert pipe.safety_checker is None and pipe.feature_extractor is None
    needed = {"image_encoder": ["transformers", "CLIPVisionModelWithProjection"]}
    (folder / "model_index.json").write_text(json.dumps(index | needed))
    with pytest.raises(ModelLoadError, match="image_encoder is missing in the folder"):
        Model.from_pretrained(str(folder))


def test_a_folder_with_a_checkpoint_in_it_names_the_file(tmp_path: Path) -> None:
    """Which is what was meant."""
    (tmp_path / "sd 15.safetensors").write_bytes(b"x")
    with pytest.raises(ModelLoadError, match=r"no model_index\.json") as caught:
        Model.from_pretrained(str(tmp_path))
    assert "sd 15.safetensors" in str(caught.value.hint)


def test_refuses_a_pipeline_of_an_unknown_family(tmp_path: Path) -> None:
    """An inpainting U-Net takes more than text; so does something that is no pipeline at all."""
    pipe = make_pipeline(tmp_path)
    pipe.unet.register_to_config(in_channels=9)
    for other in (pipe, object()):
        with pytest.raises(ModelLoadError, match="known family"):
            Model.from_pipeline(other)


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "cpu:1", "cuda:x", "", "mps:0"])
def test_refuses_unknown_devices(name: str) -> None:
    """Exit code 6, before any model is read."""
    with pytest.raises(DeviceError) as caught:
        Model.from_pretrained("pocket", device=name)
    assert caught.value.exit_code == 6 and caught.value.hint


def test_picks_dtypes() -> None:
    """float32 on the CPU whatever is stored; unknown names are refused."""
    cpu = pick_device("cpu")
    assert pick_dtype("auto", cpu, torch.float16, 1 << 40) == torch.float32
    assert pick_dtype("bfloat16", cpu) == torch.bfloat16
    with pytest.raises(UsageError, match="float8"):
        pick_dtype("float8", cpu)


def test_loads_a_folder_that_holds_the_fp16_variant_alone(tmp_path: Path) -> None:
    """As many Hub snapshots do; the stored dtype is remembered."""
    folder = save_pipeline(tmp_path / "half", dtype=torch.float16)
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_name(file.stem + ".fp16.safetensors"))
    model = Model.from_pretrained(str(folder))
    assert (model.dtype, model.stored_dtype) == (torch.float32, torch.float16)


def test_a_card_keeps_16_bits_as_they_are_stored() -> None:
    """As other programs draw with them; large float32 models become bfloat16, and float16 on cards without it."""
    with pretend_card("cuda") as card:
        device = pick_device("auto")
        assert device.type == "cuda" and pick_dtype("auto", device, torch.float32, 1 << 20) == torch.float32
        for stored in (torch.float16, torch.bfloat16):
            assert pick_dtype("auto", device, stored) == stored
        assert pick_dtype("auto", device, torch.float32, 1 << 32) == torch.bfloat16
        card.capability = 7, 5
        assert pick_dtype("auto", device, torch.bfloat16) == torch.float16


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1e15 bytes"),
        RuntimeError("Invalid buffer size: 12.88 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("command buffer exited with error status: kIOGPUCommandBufferCallbackErrorOutOfMemory"),
        MemoryError(),
    ],
)
def test_running_out_of_memory_names_what_helps(error: Exception) -> None:
    """On every kind of device; any other RuntimeError stays itself."""
    with pytest.raises(OutOfMemoryError, match="cpu is out of memory") as caught, memory_errors(torch.device("cpu")):
        raise error
    assert caught.value.exit_code == 6 and "at once" in str(caught.value.hint)
    with pytest.raises(RuntimeError, match="shape"), memory_errors(torch.device("cpu")):
        raise RuntimeError("shape mismatch")


def test_loading_is_silent(epsilon_folder: Path) -> None:
    """Neither bars, nor notes on torchvision, nor future warnings reach a person's terminal."""
    code = f"from conestool.models.model import Model; Model.from_pretrained({str(epsilon_folder)!r}).info"
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


EIGHT_BITS = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}


def rounded(file: Path, dtype: torch.dtype, ending: str = "") -> None:
    """Store the tensors of a file whose names end so in another dtype."""
    tensors = load_file(file)
    changed = {key: value.to(dtype) for key, value in tensors.items() if key.endswith(ending)}
    save_file({**tensors, **changed}, file, {"format": "pt"})


@pytest.mark.parametrize("dtype", ["auto", "float16"])
@pytest.mark.parametrize("kind", EIGHT_BITS)
def test_a_folder_with_kv_weights_in_eight_bits_is_refused(
    tmp_path: Path, epsilon_folder: Path, kind: str, dtype: str
) -> None:
    """Whatever dtype is asked for: diffusers keeps some of them in 8 bits all the same."""
    folder = Path(shutil.copytree(epsilon_folder, tmp_path / "model"))
    rounded(folder / "unet" / "diffusion_pytorch_model.safetensors", EIGHT_BITS[kind], "attn2.to_v.weight")
    with pytest.raises(ModelLoadError, match=rf"attn2\.to_v\.weight is stored as {kind}") as caught:
        Model.from_pretrained(str(folder), dtype=dtype)
    assert caught.value.exit_code == 7
    assert "float16, bfloat16 or float32 copy" in str(caught.value.hint) and "--dtype" in str(caught.value.hint)


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_k.weight",
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.weight",
        "model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight",
        "double_blocks.0.img_attn.qkv.weight",
        "single_blocks.7.linear1.weight",
    ],
)
def test_a_single_file_in_eight_bits_is_refused(tmp_path: Path, name: str) -> None:
    """In the layouts of Stable Diffusion, SD3 and Flux, before its configuration is looked for and fetched in vain."""
    file, rest = tmp_path / "model.safetensors", ("model.diffusion_model.out.2.weight", "a.weight")
    for kind, dtype in EIGHT_BITS.items():
        save_file({key: torch.zeros(4, 4) for key in rest} | {name: torch.zeros(4, 4, dtype=dtype)}, file)
        with pytest.raises(ModelLoadError, match=f"stored as {kind}") as caught:
            Model.from_pretrained(str(file))
        assert name in str(caught.value)


def test_eight_bits_elsewhere_are_no_obstacle(tmp_path: Path, epsilon_folder: Path) -> None:
    """A text encoder holds no concept neurons; it is computed in the dtype of the rest."""
    folder = Path(shutil.copytree(epsilon_folder, tmp_path / "model"))
    rounded(folder / "text_encoder" / "model.safetensors", torch.float8_e4m3fn, "weight")
    model = Model.from_pretrained(str(folder))
    assert {parameter.dtype for parameter in model.pipe.text_encoder.parameters()} == {torch.float32}
    assert model.stored_dtype == torch.float32
