"""What the tests ask of ComfyUI, in a process of its own: `comfyui_driver.py STEP FOLDER`.

FOLDER holds `told.json` and gets `answer.json`. COMFYUI_PATH is the checkout.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

STEP, FOLDER = sys.argv[1], Path(sys.argv[2])
COMFYUI = Path(os.environ["COMFYUI_PATH"])
PORT = 8199
PROMPT = "a photo of a dog in a hat"


def begin() -> None:
    """ComfyUI's modules on the path, its options for a machine without a GPU."""
    sys.argv = ["main.py", "--cpu", "--base-directory", str(FOLDER)]
    sys.path.insert(0, str(COMFYUI))
    import comfy.options

    comfy.options.enable_args_parsing()


def names() -> dict[str, int]:
    """By family the number of K/V weights on which the pack, ComfyUI's model and ComfyUI's LoRA names agree."""
    begin()
    import comfy.model_detection
    import comfy.utils
    import torch

    sys.path.insert(0, str(Path(__file__).parents[2] / "integrations" / "comfyui"))
    from kv_keys import kv_places

    found = {}
    for family, (shapes, weights) in json.loads((FOLDER / "told.json").read_text())["families"].items():
        state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
        config = comfy.model_detection.model_config_from_unet(state, "")
        model = config.get_model({}, "", device=torch.device("meta"))
        theirs = {key: tuple(value.shape) for key, value in model.diffusion_model.state_dict().items()}
        places = kv_places(theirs)
        sizes = {name: [at.rows, theirs[at.key][1]] for name, at in places.items()}
        assert sizes == weights, (family, sorted(sizes.keys() ^ weights.keys())[:5])
        mapped = lora_names(comfy.utils, model, config.unet_config)
        for name, at in places.items():
            target = mapped[name]
            key, offset = (target, None) if isinstance(target, str) else (target[0], target[1])
            assert key == at.key, (family, name, target, at)
            assert offset is None or tuple(offset) == (0, at.start, at.rows), (family, name, target, at)
        found[family] = len(places)
    return found


def lora_names(utils: Any, model: Any, config: dict[str, Any]) -> Any:
    """ComfyUI's own map from diffusers' names."""
    kind = type(model).__name__
    if kind == "SD3":
        return utils.mmdit_to_diffusers(config)
    if kind == "Flux":
        return utils.flux_to_diffusers(config)
    if kind == "PixArt":
        return utils.pixart_to_diffusers(config)
    return utils.unet_to_diffusers(config)


def weights() -> dict[str, Any]:
    """The nodes on a checkpoint that ComfyUI loaded, and the weights of its denoiser after each."""
    begin()
    import comfy.sd
    import comfy.utils
    import folder_paths
    import nodes
    import torch

    assert asyncio.run(nodes.load_custom_node(str(FOLDER / "custom_nodes" / "conestool")))
    loader, prompt = (nodes.NODE_CLASS_MAPPINGS[name]() for name in ("LoadConceptNeurons", "ConceptPrompt"))
    files = folder_paths.get_folder_paths("checkpoints")[0]
    model = comfy.sd.load_checkpoint_guess_config(f"{files}/base.safetensors", output_vae=False, output_clip=False)[0]
    edited = comfy.utils.load_torch_file(f"{files}/edited.safetensors")
    edited = {key.removeprefix("model."): value for key, value in edited.items() if key.startswith("model.diff")}
    dtype = model.model.diffusion_model.dtype
    wanted = {key: value.to(dtype) for key, value in edited.items() if value.is_floating_point()}

    def state(patcher: Any) -> dict[str, Any]:
        return {key: value.detach().clone() for key, value in patcher.model.state_dict().items() if key in wanted}

    def patched(patcher: Any, **options: Any) -> dict[str, Any]:
        patcher.patch_model(torch.device("cpu"), **options)
        found = state(patcher)
        patcher.unpatch_model(torch.device("cpu"))
        return found

    def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
        return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)

    bare = state(model)
    first, _, told = loader.load(model, "dog.cone", 0.5)
    both, phrase, _ = loader.load(first, "hat.cone", 1.0)
    swapped = loader.load(loader.load(model, "hat.cone", 1.0)[0], "dog.cone", 0.5)[0]
    # fp16 weights that ComfyUI computes with as fp32 are halved there without rounding to fp16
    near = all(torch.equal(value.half().to(dtype), wanted[key]) for key, value in patched(both).items())
    checks = {
        "as exported": near,
        "undone": equal(state(model), bare),
        "in any order": equal(patched(both), patched(swapped)),
        "hat alone is another": not equal(patched(loader.load(model, "hat.cone", 1.0)[0]), patched(both)),
        "strength 0": equal(patched(loader.load(model, "dog.cone", 0.0)[0]), bare),
        "twice is once": equal(patched(loader.load(both, "hat.cone", 1.0)[0]), patched(both)),
        "names choose": equal(patched(loader.load(model, "dog.cone", 0.5, " DOG ")[0]), patched(first)),
    }
    torch.manual_seed(1)
    keys = [key for key in wanted if key.endswith(".attn2.to_k.weight")]
    lora: dict[str, Any] = {}
    for key in keys:
        name = key.removesuffix(".weight")
        rows, columns = wanted[key].shape
        lora |= {f"{name}.lora_up.weight": torch.randn(rows, 4), f"{name}.lora_down.weight": torch.randn(4, columns)}

    def with_lora(patcher: Any) -> Any:
        return comfy.sd.load_lora_for_models(patcher, None, lora, 0.7, 0)[0]

    before = loader.load(with_lora(model), "hat.cone", 1.0)[0]
    after = with_lora(loader.load(model, "hat.cone", 1.0)[0])
    product = {key: 0.7 * lora[f"{key[:-7]}.lora_up.weight"] @ lora[f"{key[:-7]}.lora_down.weight"] for key in keys}
    alone, with_both = patched(loader.load(model, "hat.cone", 1.0)[0]), patched(before)
    checks |= {
        "a LoRA before or after": equal(with_both, patched(after)),
        "which adds to the concept": all(
            torch.allclose(with_both[key].float(), alone[key].float() + product[key], atol=1e-2) for key in keys
        ),
        "while patched it is recognised": told == seen_while_patched(loader, model, with_lora(first), torch),
    }
    both.patch_model(torch.device("cpu"), lowvram_model_memory=1)
    modules = dict(both.model.named_modules())
    offloaded = {key: modules[key.removesuffix(".weight")] for key in keys}
    values = {key: module.weight_function[0](module.weight.detach().clone()) for key, module in offloaded.items()}
    both.unpatch_model(torch.device("cpu"))
    reference = patched(both)
    checks["offloaded"] = all(torch.equal(values[key], reference[key]) for key in keys)
    merged = model.clone()
    merged.add_patches(both.get_key_patches("diffusion_model."), 1.0, 0.0)
    checks["a merge takes it over"] = equal(patched(merged), reference)
    checks["undone at last"] = equal(state(model), bare)

    def error(call: Any) -> str:
        try:
            call()
        except ValueError as raised:
            return str(raised)
        return ""

    half = model.clone()
    half.add_patches(model.get_key_patches("diffusion_model."), 0.5, 0.5)
    checks["a merged model is another"] = "merged" in error(lambda: loader.load(half, "dog.cone", 1.0))
    checks["unless allowed"] = loader.load(model, "cat.cone", 1.0, "", True)[1] == "vlk cat"
    return {
        "told": told,
        "phrase": phrase,
        "prompt": prompt.replace(both, PROMPT)[0],
        "checks": checks,
        "heavy": sorted({"diffusers", "accelerate"} & sys.modules.keys()),
        "errors": {
            "other": error(lambda: loader.load(model, "cat.cone", 1.0)),
            "broken": error(lambda: loader.load(model, "broken.cone", 1.0)),
            "name": error(lambda: loader.load(model, "dog.cone", 1.0, "rex")),
            "bare": error(lambda: prompt.replace(model, PROMPT)),
            "prompt": error(lambda: prompt.replace(both, "a cat")),
        },
    }


def seen_while_patched(loader: Any, model: Any, patcher: Any, torch: Any) -> str:
    """What the loader tells of a fresh description while patches lie on the weights in memory."""
    module = sys.modules[type(loader).__module__]
    module._INFO.clear()
    patcher.patch_model(torch.device("cpu"))
    told = loader.load(model, "dog.cone", 0.5)[2]
    patcher.unpatch_model(torch.device("cpu"))
    return str(told)


def server() -> dict[str, Any]:
    """Workflows sent to ComfyUI's server: what it drew and said."""
    log = (FOLDER / "server.log").open("w")
    command = [sys.executable, "main.py", "--cpu", "--port", str(PORT), "--base-directory", str(FOLDER)]
    process = subprocess.Popen([*command, "--disable-api-nodes"], cwd=COMFYUI, stdout=log, stderr=log)
    try:
        wait_for(process)
        said = run(workflow("base", "base.safetensors"))
        pictures = {"base": digest(said)}
        nodes, texts = workflow("nodes", "base.safetensors", cones={"dog.cone": 0.5, "hat.cone": 1.0}), {}
        said = run(nodes)
        pictures["nodes"] = digest(said)
        texts = {name: said["outputs"][name]["text"][0] for name in ("prompt", "told")}
        pictures["base again"] = digest(run(workflow("again", "base.safetensors")))
        pictures["edited"] = digest(run(workflow("edited", "edited.safetensors", text=texts["prompt"])))
        failed = run(workflow("other", "base.safetensors", cones={"cat.cone": 1.0}))
        [error] = [
            told["exception_message"] for kind, told in failed["status"]["messages"] if kind == "execution_error"
        ]
        return {"pictures": pictures, "texts": texts, "error": error.strip()}
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def workflow(name: str, checkpoint: str, text: str = "a photo of a sks dog in a zwx hat", cones: Any = None) -> Any:
    """A workflow in the API's form: two steps at 64 pixels."""
    nodes: dict[str, Any] = {"file": node("CheckpointLoaderSimple", ckpt_name=checkpoint)}
    model: list[Any] = ["file", 0]
    words: Any = text
    for number, (cone, strength) in enumerate((cones or {}).items()):
        nodes[f"cone{number}"] = node("LoadConceptNeurons", model=model, cone=cone, strength=strength)
        model = [f"cone{number}", 0]
    if cones:
        nodes["words"] = node("ConceptPrompt", model=model, text=PROMPT)
        words = ["words", 0]
        nodes["prompt"] = node("PreviewAny", source=words)
        nodes["told"] = node("PreviewAny", source=[model[0], 2])
    nodes |= {
        "positive": node("CLIPTextEncode", clip=["file", 1], text=words),
        "negative": node("CLIPTextEncode", clip=["file", 1], text=""),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
    }
    nodes["drawn"] = node(
        "KSampler", model=model, seed=0, steps=2, cfg=7.0, sampler_name="euler", scheduler="normal", denoise=1.0,
        positive=["positive", 0], negative=["negative", 0], latent_image=["latent", 0],
    )  # fmt: skip
    nodes["picture"] = node("VAEDecode", samples=["drawn", 0], vae=["file", 2])
    nodes["saved"] = node("SaveImage", images=["picture", 0], filename_prefix=name)
    return nodes


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """One node."""
    return {"class_type": kind, "inputs": inputs}


def wait_for(process: Any) -> None:
    """Until the server answers."""
    for _ in range(120):
        assert process.poll() is None, (FOLDER / "server.log").read_text()[-4000:]
        try:
            ask("system_stats")
        except OSError:
            time.sleep(1)
        else:
            return
    raise TimeoutError("the server did not answer")


def run(prompt: Any) -> Any:
    """The history of a workflow once it has ended."""
    number = ask("prompt", {"prompt": prompt})["prompt_id"]
    for _ in range(600):
        if found := ask(f"history/{number}"):
            return found[number]
        time.sleep(0.2)
    raise TimeoutError(json.dumps(prompt))


def ask(path: str, body: Any = None) -> Any:
    """What the server answers."""
    data = json.dumps(body).encode() if body else None
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/{path}", data, timeout=30) as answer:
        return json.loads(answer.read())


def digest(history: Any) -> str:
    """The digest of the pixels that a workflow saved."""
    from PIL import Image

    assert history["status"]["status_str"] == "success", history["status"]
    [saved] = history["outputs"]["saved"]["images"]
    with Image.open(FOLDER / "output" / saved["filename"]) as picture:
        return hashlib.sha256(picture.tobytes()).hexdigest()


if __name__ == "__main__":
    answer = {"names": names, "weights": weights, "server": server}[STEP]()
    (FOLDER / "answer.json").write_text(json.dumps(answer))
