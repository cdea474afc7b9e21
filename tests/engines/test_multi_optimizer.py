from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from robustmed_monai.engines.multi_optimizer import MultiOptimizerTrainer
from robustmed_monai.losses.ra import IntrospectiveLoss
from robustmed_monai.networks.ra import ReversedAutoEncoder
from robustmed_monai.transforms.batch_affine import BatchRandAffine
from robustmed_monai.utils.errors import ConfigError, NonFiniteLossError


def make_trainer(
    epochs: int = 1, seed: int = 0, batch: int = 4, norm: str = "affine", loader: Any = None, **kwargs: Any
) -> MultiOptimizerTrainer:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = ReversedAutoEncoder(image_size=16, channels=(4, 8), latent_size=8, norm=norm)
    data = [
        {"image": image} for image in torch.rand(16, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    ]
    sampler: Any = DistributedSampler(data, num_replicas=1, rank=0, seed=seed)  # type: ignore[arg-type]
    loss = IntrospectiveLoss()
    defaults: dict[str, Any] = {
        "networks": {"encoder": network.encoder, "decoder": network.decoder},
        "optimizers": {
            "encoder": torch.optim.Adam(network.encoder.parameters(), 1e-3),
            "decoder": torch.optim.Adam(network.decoder.parameters(), 1e-3),
        },
        "objectives": {"encoder": loss.encoder, "decoder": loss.decoder},
        "batch_transform": BatchRandAffine(),
    }
    trainer = MultiOptimizerTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=loader or DataLoader(data, batch_size=batch, sampler=sampler),  # type: ignore[arg-type]
        seed=seed,
        **(defaults | kwargs),
    )
    return trainer


def weights(trainer: MultiOptimizerTrainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for n in trainer.networks.values() for p in n.parameters()])


def test_output_names_every_term_and_events_fire() -> None:
    trainer, seen = make_trainer(), []
    for event in (
        IterationEvents.FORWARD_COMPLETED,
        IterationEvents.LOSS_COMPLETED,
        IterationEvents.MODEL_COMPLETED,
    ):
        trainer.add_event_handler(event, lambda _, e=event: seen.append(e))
    trainer.run()
    output = trainer.state.output
    assert {"image", "pred", "loss", "encoder_kl", "encoder_embedding", "decoder_kl_fake"} <= set(output)
    assert output["loss"] == pytest.approx(float(output["encoder_loss"] + output["decoder_loss"]))
    assert output["pred"].shape == output["image"].shape
    assert len(seen) == 3 * 4


def test_the_label_of_the_output_is_the_one_that_was_trained_on() -> None:
    def mirrored(batch: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {key: value.flip(-1) for key, value in batch.items()}

    data = [{"image": image, "label": image} for image in torch.rand(4, 1, 16, 16)]
    trainer = make_trainer(loader=DataLoader(data, batch_size=4), batch_transform=mirrored)  # type: ignore[arg-type]
    trainer.run()
    assert torch.equal(trainer.state.output["label"], trainer.state.output["image"])


def test_same_seed_same_bits_and_other_seed_other_bits() -> None:
    results = []
    for seed in (0, 0, 1):
        trainer = make_trainer(epochs=2, seed=seed)
        trainer.run()
        results.append(weights(trainer))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_engine_equals_the_bare_loop() -> None:
    trainer = make_trainer()
    bare = copy.deepcopy(trainer.networks)
    optimizers = {k: torch.optim.Adam(n.parameters(), 1e-3) for k, n in bare.items()}
    loss, augment, generator = IntrospectiveLoss(), BatchRandAffine(), torch.Generator().manual_seed(0)
    objectives = {"encoder": loss.encoder, "decoder": loss.decoder}
    loader: Any = trainer.data_loader
    loader.sampler.set_epoch(1)
    for data in loader:
        batch = augment({"image": data["image"].contiguous(memory_format=torch.channels_last)}, generator)
        for phase, optimizer in optimizers.items():
            for name, network in bare.items():
                network.requires_grad_(name == phase)
            optimizer.zero_grad()
            objectives[phase](bare, batch, generator)["loss"].backward()
            optimizer.step()
    trainer.run()
    assert torch.equal(
        weights(trainer), torch.cat([p.detach().flatten() for n in bare.values() for p in n.parameters()])
    )


def test_one_optimizer_over_both_networks_is_one_phase() -> None:
    trainer = make_trainer()
    parameters = [p for n in trainer.networks.values() for p in n.parameters()]
    single = make_trainer(
        networks=trainer.networks,
        optimizers={"autoencoder": torch.optim.Adam(parameters, 1e-3)},
        objectives={"autoencoder": IntrospectiveLoss().encoder},
    )
    before = weights(single)
    single.run()
    assert not torch.equal(before, weights(single))
    assert {"autoencoder_loss", "autoencoder_kl", "loss"} <= set(single.state.output)


def test_bfloat16_trains_float32_weights() -> None:
    trainer = make_trainer(amp=True)
    trainer.run()
    assert weights(trainer).dtype == torch.float32
    assert torch.isfinite(weights(trainer)).all()
    full = make_trainer()
    full.run()
    assert float(trainer.state.output["loss"]) == pytest.approx(float(full.state.output["loss"]), rel=0.05)


def test_a_term_that_is_not_finite_is_named_before_any_step() -> None:
    def poison(engine: Any) -> None:
        if engine.state.iteration == 3:
            engine.state.batch["image"][0] = float("nan")

    trainer = make_trainer(batch_transform=None)
    trainer.add_event_handler(Events.ITERATION_STARTED, poison)
    snapshots: list[torch.Tensor] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: snapshots.append(weights(trainer)))
    # Loggers are shared by name: left disabled, other tests would find nothing logged.
    trainer.logger.disabled = True
    try:
        with pytest.raises(
            NonFiniteLossError, match=r"encoder phase, epoch 1, iteration 3: .*'reconstruction': nan"
        ):
            trainer.run()
    finally:
        trainer.logger.disabled = False
    assert len(snapshots) == 2
    assert torch.equal(weights(trainer), snapshots[-1])


def test_phases_must_match() -> None:
    with pytest.raises(ConfigError, match="name the same"):
        make_trainer(
            objectives={"decoder": IntrospectiveLoss().decoder, "encoder": IntrospectiveLoss().encoder}
        )


def test_statistics_follow_real_images_only_with_batch_norm() -> None:
    trainer = make_trainer(norm="batch", batch_transform=None)
    stem: Any = trainer.networks["encoder"].stem
    means: list[torch.Tensor] = []
    stem[0].register_forward_hook(lambda _m, _i, out: means.append(out.detach().mean((0, 2, 3))))
    momenta: list[float] = []
    stem[1].register_forward_hook(lambda m, _i, _o: momenta.append(m.momentum))
    trainer.run()
    assert momenta == [0.1, 0.0, 0.0, 0.0, 0.0] * 4
    expected = torch.zeros(4)
    for mean in means[::5]:
        expected = 0.9 * expected + 0.1 * mean
    torch.testing.assert_close(stem[1].running_mean, expected, atol=1e-6, rtol=1e-4)


SCRIPT = """
import sys, torch, ignite.distributed as idist
sys.path.insert(0, {here!r})
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler
from test_multi_optimizer import make_trainer, weights

def work(rank):
    world = idist.get_world_size()
    trainer = make_trainer(epochs=2)
    data = trainer.data_loader.dataset
    sampler = DistributedSampler(data, num_replicas=world, rank=rank, seed=0)
    trainer = make_trainer(epochs=2, loader=DataLoader(data, batch_size=4 // world, sampler=sampler))
    trainer.run()
    if rank == 0:
        torch.save(weights(trainer), sys.argv[1])

if __name__ == "__main__":
    with idist.Parallel(backend="gloo") as parallel:
        parallel.run(lambda local_rank: work(idist.get_rank()))
"""


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    script = tmp_path / "distributed_run.py"
    script.write_text(SCRIPT.format(here=str(Path(__file__).parent)))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        "29611",
    ]
    done = subprocess.run(
        [*command, str(script), str(tmp_path / "two.pt")], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    single = make_trainer(epochs=2)
    single.run()
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    torch.testing.assert_close(two, weights(single), atol=1e-5, rtol=1e-5)


def test_a_network_and_a_loss_stand_for_their_parts() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = ReversedAutoEncoder(image_size=16, channels=(4, 8), latent_size=8, norm="affine")
    optimizers = {k: torch.optim.Adam(n.parameters(), 1e-3) for k, n in network.named_children()}
    loss = IntrospectiveLoss(warmup_epochs=1)
    short = make_trainer(2, networks=network, optimizers=optimizers, objectives=loss)
    short.run()
    assert not loss.warming_up, "the loss follows the trainer's epochs"
    other = IntrospectiveLoss(warmup_epochs=1)
    long = make_trainer(2, objectives={"encoder": other.encoder, "decoder": other.decoder})
    other.attach(long)
    long.run()
    assert torch.equal(weights(short), weights(long))


def test_3d_networks_keep_their_memory_format() -> None:
    network = torch.nn.Conv3d(1, 1, 1)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    given: Any = {"networks": {"n": network}, "optimizers": {"p": optimizer}, "objectives": {"p": None}}
    assert make_trainer(**given).memory_format == torch.contiguous_format
    assert make_trainer().memory_format == torch.channels_last
