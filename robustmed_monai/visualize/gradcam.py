"""GradCAM on ``monai.visualize`` that is right for batches of images with a class each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from monai.networks.utils import eval_mode
from monai.visualize import GradCAM, ModelWithHooks
from torch import nn

from robustmed_monai.utils.errors import ConfigError


class HookedModel(ModelWithHooks):
    """MONAI's model with hooks, for one class per image, without lasting hooks.

    Differences from ``monai.visualize.ModelWithHooks`` of MONAI 1.6.1: each image's score is the logit of its
    own class (there: of all classes asked for in the batch); hooks live for one call (there: forever);
    layers in front of an in-place operation work; a network whose parameters are frozen works; the
    parameters' gradients and the training modes of all modules are as they were.

    Args:
        nn_module: image to logits.
        target_layers: names of modules, as in ``named_modules``.

    Raises:
        ConfigError: when a layer does not exist; it names some that do.
    """

    def __init__(self, nn_module: nn.Module, target_layers: str | Sequence[str]) -> None:
        super().__init__(nn_module, ())
        self.target_layers = (target_layers,) if isinstance(target_layers, str) else tuple(target_layers)
        modules = dict(nn_module.named_modules())
        absent = [name for name in self.target_layers if name not in modules]
        if absent or not self.target_layers:
            known = [name for name in modules if name and name.count(".") <= 1]
            raise ConfigError(f"layers {absent or 'none'} are not in the network; it has {', '.join(known)}.")

    def class_score(self, logits: torch.Tensor, class_idx: Any) -> torch.Tensor:
        """Logit of each image's own class, (B,)."""
        index = torch.as_tensor(class_idx, device=logits.device).expand(len(logits))
        return logits.gather(1, index[:, None])[:, 0]

    def __call__(
        self, x: torch.Tensor, class_idx: Any = None, retain_graph: bool = False, **kwargs: Any
    ) -> Any:
        """Run forward and backward.

        Args:
            x: images (B, C, X, Y).
            class_idx: one class for all, (B,) classes, or None for the most likely of each image.
            retain_graph: keep the graph.
            kwargs: passed on to the network.

        Returns:
            Logits, and per layer activations and gradients.

        Raises:
            ConfigError: when a layer's map is a single value, whose place says nothing.
        """
        image = x.as_subclass(torch.Tensor).detach().clone().requires_grad_(True)
        with eval_mode(self.model), torch.enable_grad(), self._hooks():
            logits = self.model(image, **kwargs)
            self.class_idx = logits.argmax(1) if class_idx is None else class_idx
            self.score = self.class_score(logits, self.class_idx)
            acti = tuple(self.activations[name] for name in self.target_layers)
            for name, value in zip(self.target_layers, acti, strict=True):
                if value.ndim < 3 or max(value.shape[2:]) < 2:
                    raise ConfigError(
                        f"layer {name} gives maps of {tuple(value.shape[2:])} for images of "
                        f"{tuple(x.shape[2:])}: nothing to locate. Take an earlier layer or larger images."
                    )
            # Unlike backward() this leaves the parameters' own gradients alone.
            grad = torch.autograd.grad(self.score.sum(), acti, retain_graph=retain_graph)
        return logits, acti, grad

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        handles = [
            module.register_forward_hook(self._keep(name))
            for name, module in self.model.named_modules()
            if name in self.target_layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.activations.clear()

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
            self.activations[name] = output
            # What follows may change its input in place; it gets a copy, and the kept one stays as it was.
            return output.clone()

        return hook


class BatchGradCAM(GradCAM):
    """``monai.visualize.GradCAM`` for batches: see HookedModel; and scaled so that 1 is the strongest.

    Args:
        nn_module: image to logits.
        target_layers: names of one or several modules; ``layer_idx`` of the call chooses among them.
        kwargs: those of MONAI's: ``upsampler``, ``postprocessing``.

    Source: Selvaraju et al., ICCV 2017.

    Example:
        >>> from robustmed_monai.networks.risc import resnet2d
        >>> cam = BatchGradCAM(resnet2d(3, width=0.125), ["layer2", "layer3"])
        >>> cam(torch.rand(2, 1, 32, 32), class_idx=torch.tensor([0, 2]), layer_idx=0).shape
        torch.Size([2, 1, 32, 32])
    """

    def __init__(self, nn_module: nn.Module, target_layers: str | Sequence[str], **kwargs: Any) -> None:
        # MONAI takes one, whatever its signature says.
        hooked: Any = HookedModel(nn_module, target_layers)
        super().__init__(hooked, "", **{"postprocessing": scale_to_peak, **kwargs})


def scale_to_peak(maps: torch.Tensor) -> torch.Tensor:
    """Divide each map (B, 1, X, Y), not negative, by its own maximum; 0 stays 0, and a map of zeros too.

    MONAI's default puts the largest value to 0, and stretches rounding errors of a flat map over the range.

    >>> scale_to_peak(torch.tensor([[[[0.0, 2.0]]], [[[0.0, 0.0]]]])).flatten()
    tensor([0., 1., 0., 0.])
    """
    values = maps.detach().as_subclass(torch.Tensor)
    peak = values.flatten(1).amax(1)[:, None, None, None]
    return torch.where(peak > 0, values / peak.clamp(min=torch.finfo(values.dtype).tiny), 0)


def gradcam(
    network: nn.Module,
    images: torch.Tensor,
    layers: str | Sequence[str],
    class_idx: torch.Tensor | int | None = None,
    batch_size: int = 64,
) -> torch.Tensor:
    """Heat maps of several layers.

    Args:
        network: image to logits.
        images: (B, C, X, Y).
        layers: names of modules.
        class_idx: one class for all, (B,) classes, or None for the most likely of each image.
        batch_size: images at once.

    Returns:
        (layers, B, 1, X, Y) in [0, 1], on the CPU.

    Raises:
        ConfigError: as HookedModel.
    """
    names = [layers] if isinstance(layers, str) else list(layers)
    cam = BatchGradCAM(network, names)
    chosen = (
        None if class_idx is None else torch.as_tensor(class_idx, device=images.device).expand(len(images))
    )
    stacks = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        index = None if chosen is None else chosen[start : start + batch_size]
        maps = [cast(torch.Tensor, cam(part, index, layer_idx=i)).cpu() for i in range(len(names))]
        stacks.append(torch.stack(maps))
    return torch.cat(stacks, 1)
