"""Which module runs: paths for every module, and the stack of those that are in their forward, kept by hooks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import get_ident
from typing import Any, Final

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from flopwatch.trace.autograd_names import graph_task

OUTSIDE: Final = "(outside)"
ROOT: Final = "(root)"


class Place:
    """Where an operator belongs: a module, and the attention call within it if there is one. Compared by identity."""

    __slots__ = ("attention", "path", "root")

    def __init__(self, root: int, path: str, attention: Any = None) -> None:
        self.root = root
        self.path = path
        self.attention = attention


class ModuleNames:
    """Paths of modules and parameters: below the model that was given, or below the modules that the step calls."""

    def __init__(self, model: nn.Module | None) -> None:
        self.outside = Place(-1, OUTSIDE)
        self.roots: list[nn.Module] = []
        self.parameters: dict[int, Place] = {}
        self._places: dict[int, Place] = {}
        self._kept: list[nn.Module] = []  # an id stays theirs while they live
        self.is_given = model is not None
        if model is not None:
            self.add_root(model)

    def add_root(self, module: nn.Module) -> Place:
        """Name a module and all below it; the place of the module itself."""
        root = len(self.roots)
        self.roots.append(module)
        for name, part in module.named_modules():
            if id(part) not in self._places:
                place = self._places[id(part)] = Place(root, name)
                self._kept.append(part)
                for parameter in part._parameters.values():
                    if parameter is not None:
                        self.parameters.setdefault(id(parameter), place)
        return self._places[id(module)]

    def place_of(self, module: nn.Module, caller: Place) -> Place:
        """The place of a module that `caller` is calling; one that belongs to no known module gets a name from it."""
        place = self._places.get(id(module))
        if place is not None:
            return place
        if caller is self.outside and not self.is_given:
            return self.add_root(module)
        name = f"({type(module).__name__})"
        path = name if caller.path in {"", OUTSIDE} else f"{caller.path}.{name}"
        place = self._places[id(module)] = Place(max(caller.root, 0), path)
        self._kept.append(module)
        return place

    def place_of_parameter(self, tensor: torch.Tensor) -> Place | None:
        """The module that owns a parameter."""
        return self.parameters.get(id(tensor))

    def label(self, place: Place) -> str:
        """The path that a user reads: with the root's class in front where the step calls several roots."""
        if place is self.outside or place.root < 0:
            return OUTSIDE
        if len(self.roots) < 2:
            return place.path or ROOT
        same = [root for root in self.roots if type(root) is type(self.roots[place.root])]
        name = type(self.roots[place.root]).__name__
        if len(same) > 1:
            name += f"[{same.index(self.roots[place.root])}]"
        return f"{name}.{place.path}" if place.path else name


class ModuleStack:
    """The modules that are in their forward now, innermost last, each with the backward pass it was called in."""

    def __init__(
        self,
        names: ModuleNames,
        on_root: Callable[[nn.Module, tuple[Any, ...]], None],
        on_unseen: Callable[[str], None],
    ) -> None:
        self.names = names
        self.place = names.outside
        self.task = -1
        self.stack: list[tuple[Place, int, nn.Module]] = []
        self._on_root = on_root
        self._on_unseen = on_unseen
        self._home = get_ident()
        self._unseen: dict[int, int] = {}  # thread -> modules that run there out of sight, one within the other
        self._handles: list[RemovableHandle] = []

    def install(self) -> None:
        """Put the two hooks in place, for every module there is."""
        self._handles.append(register_module_forward_pre_hook(self._enter))
        self._handles.append(register_module_forward_hook(self._leave, always_call=True))

    def remove(self) -> None:
        """Take the hooks away."""
        while self._handles:
            self._handles.pop().remove()

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if _is_compiled(module):
            return  # the module within it is called next
        if self._is_out_of_sight():
            thread = get_ident()
            if not self._unseen.get(thread):
                self._on_unseen(f"{type(module).__name__} in another thread")
            self._unseen[thread] = self._unseen.get(thread, 0) + 1
            return
        if isinstance(module, torch.jit.ScriptModule) and "prim::mkldnn_" in str(module.graph):
            self._on_unseen("prim.mkldnn_convolution")  # an optimized graph's: it never passes torch's dispatcher
        place = self.names.place_of(module, self.place)
        if not self.stack:
            self._on_root(module, args)
        self.stack.append((self.place, self.task, module))
        self.place = place
        self.task = graph_task()

    def _is_out_of_sight(self) -> bool:
        """Whether this thread is one that the step started: torch's modes stay in theirs (but for autograd's own)."""
        return get_ident() != self._home and not torch._C._len_torch_dispatch_stack()

    def _leave(self, module: nn.Module, *_: Any) -> None:
        if self._is_out_of_sight():
            self._unseen[get_ident()] = max(0, self._unseen.get(get_ident(), 0) - 1)
            return
        if self.stack and self.stack[-1][2] is module:
            self.place, self.task, module = self.stack.pop()
            return
        if not any(entered is module for _, _, entered in reversed(self.stack)):
            return  # it was not entered
        while True:  # what was entered below it and never left has failed
            self.place, self.task, left = self.stack.pop()
            if left is module:
                return


def without_compiler(module: nn.Module) -> nn.Module:
    """The module that `torch.compile` wrapped, which is what runs during a trace; any other module as it is."""
    if _is_compiled(module):
        return module.get_submodule("_orig_mod")
    return module


def _is_compiled(module: nn.Module) -> bool:
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)
