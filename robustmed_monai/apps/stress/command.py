"""``robustmed stress``: the stress test of a bundle from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from robustmed_monai.apps.stress.bundles import UnsafeBundleError, bundle_model
from robustmed_monai.apps.stress.data import StressData, datalist_data, medmnist_data
from robustmed_monai.apps.stress.gates import (
    Gate,
    corruption_gate,
    familiarity_gate,
    p_value_gate,
    reference_images,
    rotation_gate,
)
from robustmed_monai.apps.stress.models import Model
from robustmed_monai.apps.stress.remedies import Remedy, plain_remedies, restoration_remedy, rotation_remedy
from robustmed_monai.apps.stress.requirements import read_requirement
from robustmed_monai.apps.stress.run import stress
from robustmed_monai.apps.stress.suites import SUITES, default_suites, make_suite
from robustmed_monai.data.split import SECTIONS
from robustmed_monai.transforms.corruption.suite import SEVERITIES
from robustmed_monai.transforms.ood_statistics import training_statistics
from robustmed_monai.utils.bundle import bundle_names, bundle_root, default_device
from robustmed_monai.utils.errors import ConfigError, RobustMedError

DESCRIPTION = (
    "Say how a model fails: show a MONAI bundle its test images under corruptions, rotations, other "
    "contrasts and fields of view, and write figures and pictures. The bundle is audited first. Exit status: "
    "0 done, 1 a condition of --fail-under is not met, 2 no run, 3 the bundle is not safe."
)
_MORE = "All else goes to the bundle's config: --weights FILE, --key value, key=value."

Overrides = Callable[[Sequence[str]], Mapping[str, Any]]


def stress_command(words: Sequence[str], overrides: Overrides) -> int:
    """Run ``robustmed stress``.

    Args:
        words: what follows ``stress``.
        overrides: words that are left over to keys and values of the config.

    Returns:
        0, 1 where a requirement is not met, 2 where there was no run, 3 where the bundle is not safe,
        130 where it was stopped.
    """
    try:
        options, rest = _parser().parse_known_args(words)
        content = _run(options, overrides(rest))
    except UnsafeBundleError as error:
        sys.stderr.write(f"robustmed stress: {error}\n")
        return 3
    except (argparse.ArgumentError, RobustMedError) as error:
        sys.stderr.write(f"robustmed stress: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("robustmed stress: stopped; the same command goes on from here.\n")
        return 130
    sys.stdout.write(_said(content, Path(options.output_dir)))
    return 0 if all(r["passed"] for r in content["requirements"]) else 1


def _run(options: argparse.Namespace, overrides: Mapping[str, Any]) -> dict[str, Any]:
    requirements = [read_requirement(text) for text in options.fail_under]
    device = str(default_device(options.device))
    model = bundle_model(
        _folder(options.bundle),
        options.config,
        overrides,
        device,
        options.unsafe,
        output_key=options.output_key,
    )
    baseline = None
    if options.baseline:
        baseline = bundle_model(
            _folder(options.baseline),
            options.baseline_config,
            {},
            device,
            options.unsafe,
            output_key=options.baseline_output_key,
        )
    data = _data(options, model, options.section)
    suite = make_suite(
        options.suite.split(",") if options.suite else default_suites(data),
        data,
        _severities(options.severities),
        options.seed,
    )
    return stress(
        model,
        data,
        suite,
        options.output_dir,
        baseline=baseline,
        gates=_gates(options, model),
        remedies=_remedies(options, data) if options.suggest else None,
        requirements=requirements,
        batch_size=options.batch_size,
        device=device,
    )


def _severities(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise ConfigError(f"--severities {text}: give whole numbers from 1 to 5 with commas between them.")
    return [int(word) for word in words]


def _data(options: argparse.Namespace, model: Model, section: str) -> StressData:
    if Path(options.data).suffix == ".npz":
        return medmnist_data(options.data, section, options.limit)
    return datalist_data(
        options.data,
        section,
        model.channels,
        options.num_classes or model.num_classes,
        options.label_key,
        options.limit,
        model.class_names,
    )


def _gates(options: argparse.Namespace, model: Model) -> dict[str, Gate]:
    gates: dict[str, Gate] = {}
    if options.reference:
        reference = reference_images(_data(options, model, options.reference))
        gates["familiarity"] = familiarity_gate(training_statistics(reference))
        gates["p-value"] = p_value_gate(reference)
    if options.rotnet:
        gates["RISC"] = rotation_gate(options.rotnet)
    if options.unoranic:
        gates["unORANIC"] = corruption_gate(options.unoranic)
    return gates


def _remedies(options: argparse.Namespace, data: StressData) -> dict[str, Remedy]:
    remedies = plain_remedies(data)
    if options.rotnet:
        remedies["RISC: the rotation undone (RotationCorrectionInferer)"] = rotation_remedy(options.rotnet)
    if options.unoranic:
        remedies["unORANIC: corruptions removed (RestorationInferer)"] = restoration_remedy(options.unoranic)
    return remedies


def _folder(bundle: str) -> str:
    known = not Path(bundle).exists() and bundle in bundle_names()
    if not known and not Path(bundle).is_dir():
        raise ConfigError(f"bundle {bundle}: no such folder, and no method of this package.")
    return bundle_root(bundle) if known else bundle


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="robustmed stress", description=f"{DESCRIPTION} {_MORE}", exit_on_error=False, allow_abbrev=False
    )
    add = parser.add_argument
    add("--bundle", required=True, metavar="DIR", help="folder of the bundle, or a method of this package")
    add("--config", default="inference", help="config and those laid over it, by commas (inference)")
    add("--output_key", default="pred", help="what the bundle makes that is its answer (pred)")
    add(
        "--data",
        required=True,
        metavar="PATH",
        help="datalist (JSON) or folder with labels (a class each, or masks), or an official MedMNIST npz",
    )
    add("--output_dir", default="stress", metavar="DIR", help="where the results go (stress)")
    known = ", ".join(SUITES)
    add("--suite", help=f"of {known}, medmnist_c[:<data set>], joined by commas; or a file of a suite")
    levels = ",".join(map(str, SEVERITIES))
    add("--severities", default=levels, help=f"severities of what has some ({levels})")
    add("--seed", type=int, default=0, help="chooses the draw (0)")
    add("--section", default="test", choices=SECTIONS, help="section of the data (test)")
    add("--limit", type=int, metavar="N", help="N evenly spaced images of it")
    add("--num_classes", type=int, help="classes; the bundle's metadata says so by default")
    add("--label_key", default="label", help="key of the class or label file in a datalist (label)")
    add("--baseline", metavar="DIR", help="another bundle, to compare with")
    add("--baseline_config", default="inference", help="config of the other bundle (inference)")
    add("--baseline_output_key", default="pred", help="what the other bundle makes that is its answer (pred)")
    add("--reference", choices=SECTIONS, help="section like the training data: familiarity, p-values warn")
    add(
        "--rotnet",
        metavar="FILE",
        help="weights of bundles/risc: warns of rotations, and is tried by --suggest",
    )
    add("--unoranic", metavar="FILE", help="weights of bundles/unoranic: the same for corruptions")
    add("--suggest", action="store_true", help="measure what wrappers without training give back")
    add(
        "--fail-under",
        "--fail_under",
        action="append",
        default=[],
        metavar="FIGURE=BOUND[@CORRUPTION[:SEVERITY]]",
        help="exit status 1 where it is not met: dice=.8@gaussian_noise:3; may be given several times",
    )
    add("--batch_size", type=int, default=64, help="images at once (64)")
    add("--device", help="cpu or cuda; the first GPU by default")
    add("--unsafe", action="store_true", help="evaluate the bundle even where the audit finds unknown things")
    return parser


def _said(content: Mapping[str, Any], folder: Path) -> str:
    """A few lines for the console."""
    main, summary = content["metrics"][content["main"]]["label"], content["summary"]
    lines = [
        f"{content['model']['name']} on {content['data']['name']}, {content['data']['images']} images, "
        f"{len(content['conditions']) - 1} conditions.",
        f"{main}: {summary['clean']:.3f} as given, {summary['mean_over_conditions']:.3f} over all of them.",
    ]
    lines.append(content["findings"][0])
    for r in content["requirements"]:
        value = "nothing measured" if r["value"] is None else f"{r['value']:.3f}"
        lines.append(f"{'met' if r['passed'] else 'NOT met'}: {r['text']} ({value})")
    return "\n".join([*lines, f"Report: {folder / 'report.html'}\n"])
