"""A card that is none: tensors that say they lie on `cuda:0` or `mps:0` and hold real values, computed on the CPU.

Where they meet tensors of the CPU they are refused as CUDA refuses them; so are float64 on `mps` and operations that
PyTorch's own list (native_functions.yaml) has no MPS kernel for. Launches, waits and transfers are counted, the bytes
of all tensors added up, and more than `memory` of them end as they do on a card. What a kernel takes for itself while
it runs is not seen. On a `hollow` card tensors have no values, only sizes: a model of any size takes none of this
machine's memory, and what comes back to the CPU is zeros.
"""

# mypy: ignore-errors
# It replaces methods of torch.Tensor and functions of torch by others, which types do not allow.
from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
import torchgen
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["PretendCard", "pretend_card"]

aten = torch.ops.aten
KINDS = ("cuda", "mps")
COPIES = (aten._to_copy.default, aten.copy_.default)
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim")
_VIEWS = """view _unsafe_view detach alias t transpose permute expand slice select split split_with_sizes unsqueeze
squeeze as_strided unbind lift_fresh _reshape_alias unfold diagonal empty empty_like new_empty empty_strided
new_empty_strided resize_ set_ is_same_size"""
VIEWS = frozenset(_VIEWS.split())
"""What launches nothing."""
PLENTY = 1 << 40


class MixedDevicesError(RuntimeError):
    """Tensors of the card and of the CPU met."""


def tensors_in(values: Any) -> Iterator[torch.Tensor]:
    """The tensors among the arguments of an operation, also those in lists."""
    for each in values:
        if isinstance(each, torch.Tensor):
            yield each
        elif isinstance(each, list | tuple):
            yield from tensors_in(each)


def bare(value: Any) -> Any:
    """The values behind a tensor of the card, or a list of them; anything else as it is."""
    if isinstance(value, CardTensor):
        return value.inner
    return [bare(each) for each in value] if isinstance(value, list | tuple) else value


def hollow(value: Any) -> Any:
    """The same without values."""
    value = bare(value)
    if isinstance(value, torch.Tensor):
        return torch.empty_like(value, device="meta") if value.device.type == "cpu" else value
    return [hollow(each) for each in value] if isinstance(value, list | tuple) else value


class Block:
    """Memory of the card that some tensors share; it is free when the last of them is gone."""

    def __init__(self, card: PretendCard, size: int) -> None:
        self.card, self.size = card, size
        if card.used + size > card.memory:
            card.refused += 1
            self.size = 0
            if card.kind == "mps":
                raise RuntimeError(f"MPS backend out of memory (pretended): tried to allocate {size} bytes")
            raise torch.OutOfMemoryError(f"CUDA out of memory (pretended). Tried to allocate {size} bytes")
        card.used += size
        card.peak, card.cached = max(card.peak, card.used), max(card.cached, card.used)

    def __del__(self) -> None:
        self.card.used -= self.size


class CardTensor(torch.Tensor):
    """A tensor that says it lies on the card; `inner` has its values."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor, card: PretendCard) -> CardTensor:
        made: CardTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device("cpu"),
        )
        made.inner, made.block = inner.detach(), card.block(inner)
        return made

    device = property(lambda self: PretendCard.current().device)
    is_cuda = property(lambda self: PretendCard.current().kind == "cuda")
    is_mps = property(lambda self: PretendCard.current().kind == "mps")
    is_cpu = property(lambda self: False)

    def __repr__(self, **_: Any) -> str:
        return f"CardTensor({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: Any) -> Any:
        return CardTensor(self.inner.clone(), PretendCard.current())

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with PretendCard.current() as card:
            return card.run(func, args, kwargs or {})


class PretendCard(TorchDispatchMode):
    """The card of the moment, and what was done on it: `launches` by operation, `waits`, `transfers`, `peak` bytes."""

    stack: list[PretendCard] = []

    def __init__(self, kind: str, memory: int = PLENTY, hollow: bool = False) -> None:
        super().__init__()
        self.kind, self.memory, self.device, self.hollow = kind, memory, torch.device(kind, 0), hollow
        self.used = self.peak = self.cached = self.refused = self.largest = self.caches_emptied = 0
        self.launches, self.waits, self.transfers = Counter[str](), Counter[str](), Counter[str]()
        self.blocks: WeakValueDictionary[int, Block] = WeakValueDictionary()
        self.moving, self.share, self.capability = False, 1.0, (8, 6)

    @staticmethod
    def current() -> PretendCard:
        """The one that `pretend_card` made last."""
        return PretendCard.stack[-1]

    def forget(self) -> None:
        """Count from here."""
        self.launches.clear(), self.waits.clear(), self.transfers.clear()
        self.peak, self.largest = self.used, 0

    def block(self, inner: torch.Tensor) -> Block:
        """The memory of `inner`, shared with all views of it."""
        storage = inner.untyped_storage()
        found = self.blocks.get(storage._cdata)
        if found is None:
            found = self.blocks[storage._cdata] = Block(self, storage.nbytes())
        return found

    def is_here(self, device: Any) -> bool:
        """Whether that is the card, however it is called."""
        return device is not None and torch.device(device).type in KINDS

    def move(self, tensor: torch.Tensor, there: bool, dtype: torch.dtype, **options: Any) -> torch.Tensor:
        """A copy on the card or, if not `there`, on the CPU."""
        self.moving = True
        try:
            device = self.device if there else torch.device("cpu")
            return aten._to_copy.default(tensor, dtype=dtype, device=device, **options)
        finally:
            self.moving = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operation, on the card or beside it."""
        name, leaves = func._schema.name, list(tensors_in((*args, *kwargs.values())))
        cards = [each for each in leaves if isinstance(each, CardTensor)]
        plain = [each for each in leaves if not isinstance(each, CardTensor)]
        device = kwargs.get("device")
        if cards and device is not None and not self.is_here(device) and not (self.moving and func in COPIES):
            device = kwargs["device"] = None  # what C++ takes to be the tensor's own
        here = self.is_here(device) if device is not None else bool(cards)
        if not cards and not here:
            return func(*args, **kwargs)
        self.check_generator(kwargs.get("generator"))
        if func in COPIES:
            self.count_copy(args, here)
        elif cards and plain:
            self.check_mixed(func, name, args, plain)
        self.count(name, func, args)
        if not here:
            return self.call(func, args, kwargs)
        return self.wrapped(self.call(func, args, kwargs), cards, plain, name)

    def call(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The operation on the values themselves."""
        if self.hollow:
            return self.call_hollow(func, args, kwargs)
        values, more = [bare(each) for each in args], {key: bare(each) for key, each in kwargs.items()}
        if more.get("device") is not None:
            more["device"] = torch.device("cpu")
        out = func(*values, **more)
        copied = func is aten._to_copy.default and out is values[0]
        return out.clone() if copied else out

    def call_hollow(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The operation on sizes alone."""
        if func is aten._fused_sdp_choice.default:
            return SDPBackend.FLASH_ATTENTION.value
        if func is aten._local_scalar_dense.default:
            return 0
        if func is aten.copy_.default and not isinstance(args[0], CardTensor):
            return args[0].zero_()
        if func is aten._to_copy.default and not self.is_here(kwargs.get("device", self.device)):
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        more = {key: hollow(each) for key, each in kwargs.items()}
        if more.get("device") is not None:
            more["device"] = torch.device("meta")
        values = [hollow(each) for each in args]
        out = func(*values, **more)
        return out.clone() if func is aten._to_copy.default and out is values[0] else out

    def wrapped(self, out: Any, cards: list[CardTensor], plain: list[torch.Tensor], name: str) -> Any:
        """What came out, on the card; tensors that were given stay themselves."""
        known = {id(card.inner): card for card in cards} | {id(each): each for each in plain}

        def wrap(each: Any) -> Any:
            if not isinstance(each, torch.Tensor) or isinstance(each, CardTensor):
                return each
            if id(each) in known:
                return known[id(each)]
            if self.kind == "mps" and each.dtype in (torch.float64, torch.complex128):
                raise TypeError(f"{name}: MPS has no float64")
            self.largest = max(self.largest, each.numel())
            return CardTensor(each, self)

        return type(out)(wrap(each) for each in out) if isinstance(out, tuple | list) else wrap(out)

    def check_generator(self, generator: torch.Generator | None) -> None:
        """Random numbers on a card come of a generator that lies there."""
        if generator is not None:
            raise RuntimeError(f"expected a {self.kind} device type for generator but found {generator.device}")

    def check_mixed(self, func: Any, name: str, args: Any, plain: list[torch.Tensor]) -> None:
        """Refuse tensors of the CPU beside those of the card: all but single numbers, and positions in the card's."""
        strange = [each for each in plain if each.dim() > 0]
        if name in INDEXING and isinstance(args[0], CardTensor):
            strange = [each for each in args[2:3] if not isinstance(each, CardTensor) and each.dim() > 0]
            self.transfers["index"] += not strange
        elif func._schema.is_mutable and isinstance(args[0], torch.Tensor) and not isinstance(args[0], CardTensor):
            strange = plain
        if strange:
            shapes = [tuple(each.shape) for each in strange]
            raise MixedDevicesError(f"{name}: expected all tensors on {self.device}, found {shapes} on cpu")

    def count_copy(self, args: Any, here: bool) -> None:
        """A copy between the card and the CPU; one to the CPU waits for all that was launched before."""
        first, *rest = (isinstance(each, CardTensor) for each in args[:2] if isinstance(each, torch.Tensor))
        source, target = (rest[0], first) if rest else (first, here)
        if source != target:
            self.transfers["to the card" if target else "to the CPU"] += 1
            self.waits["copy to the CPU"] += not target

    def count(self, name: str, func: Any, args: Any) -> None:
        """One operation: what it waits for, whether it launches, and whether MPS has a kernel for it."""
        short = name.removeprefix("aten::")
        by_mask = name in INDEXING and any(each.dtype in (torch.bool, torch.uint8) for each in tensors_in(args[1]))
        self.waits[short] += short in WAITS or by_mask
        if short not in VIEWS:
            self.launches[short] += 1
        overload = func._overloadname
        full = short if overload == "default" else f"{short}.{overload}"
        if self.kind == "mps" and mps_kernels().get(full) is False:
            raise NotImplementedError(f"the operator 'aten::{full}' has no kernel for MPS")


@cache
def mps_kernels() -> dict[str, bool]:
    """By operation whether PyTorch lists a kernel that runs on MPS; those without a list of kernels are left out."""
    file = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    entries = {each["func"].split("(")[0]: each for each in yaml.CSafeLoader(file.read_text()).get_data()}

    def runs(entry: dict[str, Any]) -> bool:
        given = entries.get(entry.get("structured_delegate", ""), entry).get("dispatch")
        keys = ", ".join(given).split(", ") if given else ["CompositeImplicitAutograd"]
        return any(key == "MPS" or key.startswith("Composite") for key in keys)

    return {name: runs(entry) for name, entry in entries.items()}


def placed(args: Any, kwargs: dict[str, Any]) -> tuple[Any, torch.dtype | None, dict[str, Any]]:
    """Device, dtype and the rest of what `Tensor.to` was given."""
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    for each in (*args, kwargs.get("other")):
        if isinstance(each, torch.Tensor):
            device, dtype = each.device, each.dtype
        elif isinstance(each, torch.dtype):
            dtype = each
        elif isinstance(each, str | torch.device):
            device = each
    return device, dtype, {key: kwargs[key] for key in ("memory_format",) if kwargs.get(key) is not None}


ATTENTION = F.scaled_dot_product_attention


def attention_with_mask(query: Any, key: Any, value: Any, attn_mask: Any = None, *rest: Any, **more: Any) -> Any:
    """Attention whose causal mask lies on the card; PyTorch itself would make it where the values are."""
    if more.pop("is_causal", False):
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    return ATTENTION(query, key, value, attn_mask, *rest, **more)


@contextlib.contextmanager
def pretend_card(kind: str, memory: int = PLENTY, hollow: bool = False) -> Iterator[PretendCard]:
    """A card of this `kind` with so many bytes of memory, for as long as the context lasts."""
    card, plain = PretendCard(kind, memory, hollow), {n: getattr(torch.Tensor, n) for n in ("to", "numpy", "tolist")}
    array, tensor, swap = torch.Tensor.__array__, torch.tensor, torch.utils.swap_tensors

    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        device, dtype, rest = placed(args, kwargs)
        here = isinstance(self, CardTensor)
        there = here if device is None else card.is_here(device)
        if (not here and not there) or (device is not None and torch.device(device).type == "meta"):
            return plain["to"](self.inner if here else self, *args, **kwargs)
        if there == here and dtype in (None, self.dtype) and not kwargs.get("copy") and not rest:
            return self
        return card.move(self, there, dtype or self.dtype, **rest)

    def refused(name: str, method: Any) -> Any:
        def call(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if isinstance(self, CardTensor):
                raise TypeError(f"can't convert {card.device} device type tensor to numpy: {name}")
            return method(self, *args, **kwargs)

        return call

    def tolist(self: torch.Tensor) -> Any:
        return plain["tolist"](self.cpu() if isinstance(self, CardTensor) else self)

    def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Any:
        there = card.is_here(device)
        out = tensor(data, *args, device=None if there else device, **kwargs)
        return out.to(card.device) if there else out

    def exchange(one: torch.Tensor, two: torch.Tensor) -> None:
        hooks = one._post_accumulate_grad_hooks
        swap(one, two)
        one._post_accumulate_grad_hooks = hooks  # they were with the values, and a moved parameter keeps its own

    def empty_cache() -> None:
        card.caches_emptied += 1
        card.cached = card.used

    cuda = {
        "is_available": lambda: kind == "cuda",
        "device_count": lambda: int(kind == "cuda"),
        "current_device": lambda: 0,
        "_lazy_init": lambda: None,
        "empty_cache": empty_cache,
        "synchronize": lambda device=None: None,
        "memory_allocated": lambda device=None: card.used,
        "memory_reserved": lambda device=None: card.used,
        "max_memory_allocated": lambda device=None: card.peak,
        "reset_peak_memory_stats": lambda device=None: setattr(card, "peak", card.used),
        "mem_get_info": lambda device=None: (card.memory - card.used, card.memory),
        "get_per_process_memory_fraction": lambda device=None: card.share,
        "set_per_process_memory_fraction": lambda share, device=None: setattr(card, "share", share),
        "get_device_capability": lambda device=None: card.capability,
        "get_device_name": lambda device=None: "a pretended card",
    }
    mps = {
        "empty_cache": empty_cache,
        "synchronize": lambda: None,
        "driver_allocated_memory": lambda: card.cached,
        "current_allocated_memory": lambda: card.used,
        "recommended_max_memory": lambda: card.memory,
    }
    methods = {
        "to": to,
        "cpu": lambda self: to(self, "cpu"),
        "cuda": lambda self, *args, **kwargs: to(self, card.device),
        "numpy": refused("numpy", plain["numpy"]),
        "__array__": refused("__array__", array),
        "tolist": tolist,
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.multiple(torch.Tensor, **methods))
        stack.enter_context(patch.multiple(torch.cuda, **cuda))
        stack.enter_context(patch.multiple(torch.mps, **mps))
        stack.enter_context(patch.object(torch.backends.mps, "is_available", lambda: kind == "mps"))
        stack.enter_context(patch.object(torch, "tensor", made))
        stack.enter_context(patch.object(torch.utils, "swap_tensors", exchange))
        swapped = torch.__future__.get_swap_module_params_on_conversion()
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swapped)
        torch.__future__.set_swap_module_params_on_conversion(True)
        if kind == "mps":  # it has no fused attention with a derivative
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(patch.object(F, "scaled_dot_product_attention", attention_with_mask))
        PretendCard.stack.append(card)
        stack.callback(PretendCard.stack.pop)
        stack.enter_context(card)
        yield card
