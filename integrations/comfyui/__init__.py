"""Concept neurons in ComfyUI: .cone files as patches of a model, without a checkpoint of their own."""

from pathlib import Path

import folder_paths

try:
    import conestool  # noqa: F401
except ImportError as error:
    raise ImportError(
        "conestool is missing: python -m pip install --no-deps conestool, with ComfyUI's Python"
    ) from error

from .nodes import ConceptPrompt, LoadConceptNeurons

_FILES = Path(folder_paths.models_dir) / "cones"
_FILES.mkdir(parents=True, exist_ok=True)
folder_paths.add_model_folder_path("cones", str(_FILES))
folder_paths.folder_names_and_paths["cones"][1].add(".cone")

NODE_CLASS_MAPPINGS = {"LoadConceptNeurons": LoadConceptNeurons, "ConceptPrompt": ConceptPrompt}
NODE_DISPLAY_NAME_MAPPINGS = {"LoadConceptNeurons": "Load Concept Neurons", "ConceptPrompt": "Concept Prompt"}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
