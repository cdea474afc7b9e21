"""A MONAI trainer for objectives that update different networks in turn, each with its own optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Events
from monai.engines.trainer import Trainer
from monai.engines.utils import IterationEvents, default_prepare_batch
from monai.engines.workflow import Workflow
from monai.utils.enums import CommonKeys as Keys
from torch import nn

from robustmed_monai.utils.errors import ConfigError, NonFiniteLossError

Objective = Callable[
    [Mapping[str, nn.Module], MutableMapping[str, torch.Tensor], torch.Generator], dict[str, torch.Tensor]
]
BatchTransform = Callable[[dict[str, torch.Tensor], torch.Generator], dict[str, torch.Tensor]]


class MultiOptimizerTrainer(Trainer):
    """Runs one phase per objective on every batch: freeze all but the phase's networks, backward, step.

    Works with every standard handler: ``engine.state.output`` is a dictionary with `image`, `pred`, `loss`
    and one ``<phase>_<term>`` scalar for each named term, and the iteration events of MONAI are fired. Under
    torchrun each network is wrapped by ``ignite.distributed.auto_model``; noise and augmentation are those of
    the global batch.

    Args:
        device: device to train on.
        max_epochs: epochs to run.
        train_data_loader: yields dictionaries with `image`.
        networks: name to network; or one network whose parts are taken by their names.
        optimizers: phase to optimizer; the phases run in this order and a phase trains what its optimizer
            holds.
        objectives: phase to function of (networks, batch, generator) that returns "loss" and named terms. It
            may leave tensors in the batch for the next phase, "pred" among them. Or an object with a method
            of each phase's name, attached as a handler if it is one (IntrospectiveLoss).
        schedulers: name to learning rate scheduler, stepped after every epoch.
        seed: seed of the generator that all noise and augmentation of the run come from.
        batch_transform: batched augmentation on the device: (batch, generator) to batch.
        prepare_batch: MONAI's: batch data to (image, label) on the device.
        amp: run the networks in bfloat16 autocast (losses stay in float32).
        compile: compile the networks with ``torch.compile``.
        channels_last: keep image tensors and convolutions of 2-D networks in channels-last memory, which is
            faster on most machines.
        train_handlers: handlers to attach.
        decollate: MONAI's; off by default because nothing here works per item.
        epoch_length: iterations per epoch; None takes the loader's length.

    Raises:
        ConfigError: when optimizers and objectives do not name the same phases.
        NonFiniteLossError: during ``run`` when a term is NaN or infinite; it names the term, before any step
            is taken.
    """

    def __init__(
        self,
        device: torch.device | str,
        max_epochs: int,
        train_data_loader: Any,
        networks: Mapping[str, nn.Module] | nn.Module,
        optimizers: Mapping[str, torch.optim.Optimizer],
        objectives: Mapping[str, Objective] | Any,
        schedulers: Mapping[str, torch.optim.lr_scheduler.LRScheduler] | None = None,
        seed: int = 0,
        batch_transform: BatchTransform | None = None,
        prepare_batch: Callable[..., Any] = default_prepare_batch,
        amp: bool = False,
        compile: bool = False,
        channels_last: bool = True,
        train_handlers: Sequence[Any] | None = None,
        decollate: bool = False,
        epoch_length: int | None = None,
    ) -> None:
        handlers = list(train_handlers or [])
        if not isinstance(objectives, Mapping):
            handlers += [objectives] if hasattr(objectives, "attach") else []
            objectives = {phase: getattr(objectives, phase) for phase in optimizers}
        if list(optimizers) != list(objectives):
            raise ConfigError(
                f"optimizers name the phases {list(optimizers)} and objectives {list(objectives)}; "
                "name the same, in order."
            )
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            epoch_length=epoch_length,
            prepare_batch=prepare_batch,
            handlers=None,
            decollate=decollate,
        )
        parts = dict(networks.named_children()) if isinstance(networks, nn.Module) else networks
        self.networks: dict[str, nn.Module] = dict(parts)
        self.optimizers = dict(optimizers)
        self.objectives: dict[str, Objective] = dict(objectives)
        self.generator = torch.Generator().manual_seed(seed)
        self.batch_transform = batch_transform
        self.autocast = amp
        flat = channels_last and all(p.ndim < 5 for n in self.networks.values() for p in n.parameters())
        self.memory_format = torch.channels_last if flat else torch.contiguous_format
        for network in self.networks.values():
            network.to(self.state.device).to(memory_format=self.memory_format)
        plain = {k: torch.compile(n) for k, n in self.networks.items()} if compile else self.networks
        self._phases = {k: self._phase_networks(k, plain) for k in self.optimizers}
        for scheduler in (schedulers or {}).values():
            self.add_event_handler(Events.EPOCH_COMPLETED, lambda _, s=scheduler: s.step())
        self._register_handlers(handlers)

    def run(self) -> None:  # type: ignore[override]
        """Train from the current state to ``max_epochs``."""
        # MONAI's Trainer.run would make a CUDA GradScaler; bfloat16 needs none.
        Workflow.run(self)

    def _phase_networks(self, phase: str, plain: Mapping[str, Any]) -> dict[str, Any]:
        """Networks as a phase sees them: distributed where trained, plain where frozen.

        A frozen network must not go through DDP, whose reducer would wait for gradients that never come.
        """
        held = _held(self.optimizers[phase])
        trained = {k for k, n in self.networks.items() if any(id(p) in held for p in n.parameters())}
        return {k: _distributed(n) if k in trained else n for k, n in plain.items()}

    def _iteration(self, engine: Any, batchdata: Any) -> dict[str, Any]:
        device = engine.state.device
        image, label = self.prepare_batch(batchdata, device, self.non_blocking)
        batch: dict[str, torch.Tensor] = {Keys.IMAGE: image.to(memory_format=self.memory_format)}
        if label is not None:
            batch[Keys.LABEL] = label
        if self.batch_transform is not None:
            batch = self.batch_transform(batch, self.generator)
        output: dict[str, Any] = {Keys.IMAGE: batch[Keys.IMAGE], Keys.LABEL: batch.get(Keys.LABEL)}
        losses = []
        for network in self.networks.values():
            network.train()
        for phase in self.objectives:
            terms = self._run_phase(phase, batch)
            losses.append(terms["loss"])
            output |= {f"{phase}_{k}": v for k, v in terms.items()}
        output[Keys.PRED] = batch.get(Keys.PRED)
        output[Keys.LOSS] = torch.stack(losses).sum()
        engine.state.output = output
        for event in (IterationEvents.FORWARD_COMPLETED, IterationEvents.LOSS_COMPLETED):
            engine.fire_event(event)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output

    def _run_phase(self, phase: str, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        optimizer, device = self.optimizers[phase], self.state.device
        held = _held(optimizer)
        for network in self.networks.values():
            for p in network.parameters():
                p.requires_grad_(id(p) in held)
                p.grad = None
        with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            terms = self.objectives[phase](self._phases[phase], batch, self.generator)
        self._check_finite(phase, terms)
        terms["loss"].backward()
        optimizer.step()
        return {k: v.detach() for k, v in terms.items()}

    def _check_finite(self, phase: str, terms: dict[str, torch.Tensor]) -> None:
        # One comparison for all terms keeps the device in step only once per phase.
        if torch.isfinite(torch.stack([v.detach() for v in terms.values()])).all():
            return
        bad = {k: v.item() for k, v in terms.items() if not torch.isfinite(v).all()}
        raise NonFiniteLossError(
            f"{phase} phase, epoch {self.state.epoch}, iteration {self.state.iteration}: {bad} is not "
            "finite. No step was "
            "taken and the last checkpoint is untouched; lower the learning rate or look for damaged images."
        )


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """Parameters of a network that are not frozen, for an optimizer."""
    return [p for p in network.parameters() if p.requires_grad]


def loss_terms(output: Mapping[str, Any]) -> dict[str, float]:
    """The named loss terms of a trainer's output as numbers, for logging handlers' ``output_transform``."""
    scalars = {k: v for k, v in output.items() if isinstance(v, torch.Tensor) and v.ndim == 0}
    return {k: v.item() for k, v in scalars.items()}


def _held(optimizer: torch.optim.Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _distributed(network: Any) -> Any:
    # Several forward passes come before one backward pass, so buffers must not be overwritten in between.
    return idist.auto_model(network, broadcast_buffers=False) if idist.get_world_size() > 1 else network
