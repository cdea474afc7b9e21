"""Hostile bundles, one trick each, as tables: what is laid over a bundle that is safe."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# A bundle of which everything is safe: what is refused is refused for its trick.
BASE: dict[str, Any] = {
    "imports": ["$import glob", "$import os"],
    "bundle_root": ".",
    "output_dir": "$@bundle_root + '/eval'",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "datalist": "$list(sorted(glob.glob(os.path.join('images', '*.nii.gz'))))",
    "network_def": {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2},
    "network": "$@network_def.to(@device)",
    "preprocessing": {"_target_": "Compose", "transforms": [{"_target_": "LoadImaged", "keys": "image"}]},
    "dataset": {
        "_target_": "Dataset",
        "data": "$[{'image': i} for i in @datalist]",
        "transform": "@preprocessing",
    },
    "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [96, 96, 96]},
    "evaluator": {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "inferer": "@inferer",
    },
    "run": ["$setattr(torch.backends.cudnn, 'benchmark', True)", "$@evaluator.run()"],
}

# Keys laid over BASE.
KEYS: dict[str, dict[str, Any]] = {
    # What a _target_ names.
    "os.system": {"x": {"_target_": "os.system", "command": "id"}},
    "a module's import of os": {"x": {"_target_": "logging.os.system", "command": "id"}},
    "MONAI's import of os": {"x": {"_target_": "monai.bundle.scripts.os.system", "command": "id"}},
    "torch's import of os": {"x": {"_target_": "torch.os.system", "command": "id"}},
    "an alias two modules away": {"x": {"_target_": "glob.re.copyreg.pickle"}},
    "subprocess": {"x": {"_target_": "subprocess.Popen", "args": ["id"]}},
    "subprocess by way of MONAI": {"x": {"_target_": "monai.utils.misc.subprocess.run", "args": ["id"]}},
    "run_cmd by its bare name": {"x": {"_target_": "run_cmd", "cmd_list": ["id"]}},
    "another bundle": {"x": {"_target_": "monai.bundle.run", "config_file": "/tmp/x.json"}},
    "another config by its bare name": {"x": {"_target_": "ConfigParser", "config": {"y": "$1"}}},
    "a download by its bare name": {"x": {"_target_": "download_and_extract", "url": "http://x"}},
    "builtins by a bare name": {"x": {"_target_": "eval", "source": "1"}},
    "builtins by their module": {"x": {"_target_": "builtins.exec"}},
    "the inside of a builtin": {"x": {"_target_": "print.__self__.eval"}},
    "open": {"x": {"_target_": "open", "file": "/root/.bashrc", "mode": "a"}},
    "torch.load": {"x": {"_target_": "torch.load", "f": "models/model.pt"}},
    "torch.load where it is defined": {"x": {"_target_": "torch.serialization.load", "f": "m"}},
    "torch.jit.load": {"x": {"_target_": "torch.jit.load", "f": "models/model.ts"}},
    "torch.hub": {"x": {"_target_": "torch.hub.load", "repo_or_dir": "a/b", "model": "c"}},
    "numpy.load": {"x": {"_target_": "numpy.load", "file": "x.npy"}},
    "joblib": {"x": {"_target_": "joblib.load", "filename": "x"}},
    "timeit": {"x": {"_target_": "timeit.timeit", "stmt": "1"}},
    "the profiler": {"x": {"_target_": "cProfile.run", "statement": "1"}},
    "the debugger": {"x": {"_target_": "pdb.run", "statement": "1"}},
    "importlib": {"x": {"_target_": "importlib.import_module", "name": "antigravity"}},
    "a module that acts": {"x": {"_target_": "antigravity"}},
    "setattr as a target": {"x": {"_target_": "setattr"}},
    "a class of a package unknown": {"x": {"_target_": "totally_fine.Transform"}},
    "code of the bundle": {"x": {"_target_": "scripts.my_transforms.Fine"}},
    "letters that look alike": {"x": {"_target_": "ｏｓ.system"}},
    # How a target is written.
    "a target put together": {"x": {"_target_": "$'os.' + 'system'", "command": "id"}},
    "a target by reference": {"name": "os.system", "x": {"_target_": "@name", "command": "id"}},
    "a target by two references": {"a": "$'os.sys'", "x": {"_target_": "$@a + 'tem'"}},
    "a target by macro": {"name": "posix.system", "x": {"_target_": "%name", "command": "id"}},
    "a target by long key": {"network_def#_target_": "os.system"},
    "a target in a disabled part": {"x": {"_target_": "os.system", "_disabled_": True}},
    "a target that is an object's inside": {"x": {"_target_": "$@evaluator.__class__"}},
    "the debugger's mode": {"x": {"_target_": "UNet", "_mode_": "debug"}},
    "the debugger's mode by long key": {"network_def#_mode_": "debug"},
    "the debugger's argument": {"x": {"_target_": "UNet", "_debug_": True}},
    "a mode by reference": {"m": "$'de' + 'bug'", "x": {"_target_": "UNet", "_mode_": "@m"}},
    # Where an expression hides.
    "an expression in a description": {"x": {"_target_": "UNet", "_desc_": "$__import__('os').system('id')"}},
    "an expression in _requires_": {"x": {"_target_": "UNet", "_requires_": "$os.system('id')"}},
    "an expression in _disabled_": {"x": {"_target_": "UNet", "_disabled_": "$os.system('id')"}},
    "an expression that nothing uses": {"notes": [{"deep": ["$os.system('id')"]}]},
    "an import that nothing uses": {"notes": {"deep": "$import antigravity"}},
    "an import of the bundle": {"imports": ["$import scripts"]},
    "an import that is called": {"imports": ["$from os import system"], "x": "$system('id')"},
    "an import under another name": {"imports": ["$import os as np"], "x": "$np.system('id')"},
    "two imports in one": {"imports": ["$import glob; import antigravity"]},
    "a module by reference": {"imports": ["$import os"], "x": "$@imports#0.system('id')"},
    "a module by relative reference": {"imports": ["$import os", "$@#0.system('id')"]},
    "a module handed out": {"m": "$monai.bundle", "x": "$@m.run(config_file='x')"},
    "a module in a list": {"m": ["$os"], "x": "$@m[0].system('id')"},
    "a module in a call": {"x": "$(lambda m: m.system('id'))(os)"},
    # What an expression does.
    "dunders": {"x": "$().__class__.__base__.__subclasses__()"},
    "dunders of a function": {"x": "$(lambda: 0).__globals__"},
    "dunders in a text that is filled": {"x": "$'{0.__class__}'.format(1)"},
    "the inside of a generator": {"x": "$(i for i in [1]).gi_frame.f_builtins"},
    "import by function": {"x": "$__import__('os').system('id')"},
    "getattr": {"x": "$getattr(os, 'sys' + 'tem')('id')"},
    "setattr elsewhere": {"x": "$setattr(torch.nn.Module, 'forward', print)"},
    "sys.path": {"imports": ["$import sys"], "x": "$sys.path.append('/tmp')"},
    "eval": {"x": "$eval('1')"},
    "open in an expression": {"x": "$open('/etc/passwd').read()"},
    "a chain of partials": {
        "x": "$functools.partial(os.system, 'id')",
        "imports": ["$import functools", "$import os"],
    },
    "map": {"x": "$list(map(os.system, ['id']))"},
    "a loop over functions": {"x": "$[f('id') for f in [os.system]]"},
    "a walrus": {"x": "$(f := os.system)('id')"},
    "letters that Python makes alike": {"x": "$ｏs.ｓystem('id')"},
    "MONAI's own references": {"x": "$__local_refs['network'].__class__"},
    "an unknown name": {"x": "$run_this()"},
    "an unknown attribute": {"x": "$@network.register_forward_hook(print)"},
    "environment": {"x": "$os.environ['HOME']"},
    "removal of a file": {"x": "$os.remove('model.pt')"},
    "a write by a path": {
        "imports": ["$import pathlib"],
        "x": "$pathlib.Path('/root/.bashrc').write_text('id')",
    },
    "a rename by a path": {
        "imports": ["$import pathlib"],
        "x": "$pathlib.Path('a').replace('/root/.profile')",
    },
    "a rename by a copied path": {
        "imports": ["$import pathlib", "$import copy"],
        "x": "$copy.copy(pathlib.Path('a')).replace('/root/.profile')",
    },
    "a rename by a path that is handed on": {
        "p": {
            "_target_": "robustmed_monai.utils.bundle.given",
            "value": {"_target_": "pathlib.Path", "a": 1},
            "default": 1,
        },
        "x": "$@p.replace('/root/.profile')",
    },
    "a power without end": {"x": "$10 ** 10 ** 10"},
    "a text without end": {"x": "$'x' * 10000 * 10000 * 10000"},
    "a range without end": {"x": "$list(range(10 ** 12))"},
    "a filled text without end": {"x": "$f'{1:9999999999}'"},
    "a comprehension of comprehensions": {"x": "$[1 for a in 'ab' for b in 'ab' for c in 'ab']"},
    "no Python": {"x": "$1 +"},
    # What an argument makes of a component that is allowed.
    "a reader by name": {"x": {"_target_": "LoadImaged", "keys": "image", "reader": "os.system"}},
    "a reader by expression": {
        "x": {"_target_": "LoadImaged", "keys": "i", "reader": "$''.join(['os', '.system'])"}
    },
    "a reader by position": {"x": "$monai.transforms.LoadImage('os.system')"},
    "a writer by name": {"x": {"_target_": "SaveImaged", "keys": "image", "writer": "subprocess.run"}},
    "a reader passed on": {
        "imports": ["$import functools"],
        "x": "$functools.partial(monai.transforms.LoadImage, None)",
    },
    "unpickling of arrays": {"x": {"_target_": "NumpyReader", "allow_pickle": True}},
    "unpickling of weights": {"x": {"_target_": "PersistentDataset", "weights_only": False}},
    "a pickle module": {"x": {"_target_": "PersistentDataset", "pickle_module": "dill"}},
    "a download": {"x": {"_target_": "DecathlonDataset", "download": True}},
    "fetched code": {"x": {"_target_": "PerceptualLoss", "network_type": "medicalnet_resnet10_23datasets"}},
    "outputs at home": {"x": {"_target_": "LogfileHandler", "output_dir": "~", "filename": ".bashrc"}},
    "outputs outside": {"x": {"_target_": "MetricsSaver", "save_dir": "../../.config/autostart"}},
    "a text that names": {"x": {"_target_": "Lambdad", "keys": "image", "func": "os.system"}},
    "a reader by its data": {
        "ld": {"_target_": "LoadImage", "_mode_": "callable", "command": "id"},
        "ds": {"_target_": "Dataset", "data": ["$''.join(['os', '.system'])"], "transform": "@ld"},
    },
    "unpickling by position": {"x": "$monai.data.NumpyReader(None, True, False, True)"},
    "other processes by position": {"x": "$torch.distributed.init_process_group('gloo', 'tcp://10.0.0.1:1')"},
    "other processes by name": {"x": "$torch.distributed.init_process_group(init_method='tcp://10.0.0.1:1')"},
    "outputs on another machine": {"x": {"_target_": "TensorBoardStatsHandler", "log_dir": "s3://bucket/x"}},
    "weights from an address": {"x": {"_target_": "HoVerNet", "pretrained_url": "http://x"}},
    # More ways to the same.
    "a target in a target": {"x": {"_target_": {"_target_": "os.system"}}},
    "a target with an empty part": {"x": {"_target_": "os..system"}},
    "a reader in a list": {
        "x": {
            "_target_": "LoadImaged",
            "keys": "i",
            "reader": ["NibabelReader", "$''.join(['os','.system'])"],
        }
    },
    "a reader by an unpacked dictionary": {
        "x": "$monai.transforms.LoadImage(**{'reader': ''.join(['os','.system'])})"
    },
    "a function in a dictionary": {"x": "${'a': os.system}['a']('id')"},
    "a module through a function": {
        "imports": ["$import os"],
        "x": "$list(map(lambda m: m.system('id'), [os]))",
    },
    "a function as a key": {"imports": ["$import os"], "x": "$sorted(['id'], key=os.system)"},
    "a function as a default": {"imports": ["$import os"], "x": "$(lambda f=os.system: f('id'))()"},
    "an import of an import": {"imports": ["$from torch import os"], "x": "$os.system('id')"},
    "a rename of a path that was found": {
        "imports": ["$import pathlib"],
        "x": "$sorted(pathlib.Path('.').glob('*'))[0].replace('/root/.bashrc')",
    },
    "a rename in a loop": {
        "imports": ["$import pathlib"],
        "x": "$[a.replace('/root/.x') for a, b in zip([pathlib.Path('a')], [1])]",
    },
    "a rename of one of two": {
        "imports": ["$import pathlib"],
        "x": "$(pathlib.Path('a') or 'x').replace('b')",
    },
    "a rename from a sum of lists": {
        "imports": ["$import pathlib"],
        "x": "$([pathlib.Path('a')] + ['b'])[0].replace('b')",
    },
    "the inside of a class": {"x": "$monai.utils.CommonKeys.mro()"},
    "getattr under another name": {"imports": ["$from builtins import getattr as g"], "x": "$g(1,'x')"},
    "an alias three modules away": {
        "imports": ["$import glob"],
        "x": "$glob.os.path.genericpath.os.system('id')",
    },
    "processes": {"x": "$torch.multiprocessing.spawn(print)"},
    "pickle by way of MONAI": {"x": "$monai.data.utils.pickle.loads(b'x')"},
    "a module by its name": {"x": "$monai.utils.optional_import('os')[0].system('id')"},
    "a write of an array": {"x": "$np.array([1]).tofile('/root/.bashrc')"},
    "curves on another machine": {"x": "$torch.utils.tensorboard.SummaryWriter('s3://x')"},
    "a print into a file": {
        "imports": ["$import pathlib"],
        "x": "$print('x', file=pathlib.Path('a').open('w'))",
    },
    "a text that is filled by a method": {"x": "$'x'.ljust(10**9)"},
    "a function as a handler": {"x": "$@evaluator.add_event_handler('x', os.system, 'id')"},
    "a function as a collation": {"dataloader#collate_fn": "$os.system"},
    "a function in a function": {
        "x": {"_target_": "Lambdad", "keys": "a", "func": "$lambda x: os.system(x)"}
    },
    "metadata in a config": {"_meta_": {"x": "$os.system('id')"}},
    "a target that is none": {"x": {"_target_": None}},
    "a tower of powers": {"x": "$9**9**9"},
    "a shift without end": {"x": "$1<<10**9"},
    # Bombs, and what cannot be followed.
    "references in a ring": {"a": "@b", "b": "@c", "c": "@a"},
    "macros in a ring": {"a": {"x": "%b"}, "b": {"y": "%a"}},
    "a bomb of macros": {f"m{i}": [f"%m{i + 1}"] * 10 for i in range(9)} | {"m9": ["$1"]},
    "a long chain": {f"c{i}": f"$@c{i + 1}" for i in range(60)} | {"c60": 1},
    "a macro from elsewhere": {"x": "%/etc/other.json#key"},
    "a relative reference out of range": {"x": "@####y"},
    "a very long expression": {"x": "$" + "+".join(["1"] * 5000)},
}


def _zip(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


class _Call:
    """Pickled, it calls a function when it is read."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


_EVIL = pickle.dumps(_Call(eval, "1"))
_STACKED = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R."
_JOINED = b"\x80\x04\x8c\x02os\x94\x8c\x06systemX\x00\x00\x00\x000h\x00\x8c\x06system\x93."
_OBJECTS = (
    b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    + b" " * 60
    + b"\n"
    + _EVIL
)


def _deep(depth: int) -> str:
    return '{"x": ' + "[" * depth + "]" * depth + "}"


# Files laid over the bundle.
FILES: dict[str, dict[str, str | bytes]] = {
    "metadata that runs": {"configs/metadata.json": "{\"version\": \"$__import__('os').system('id')\"}"},
    "metadata that imports": {"configs/metadata.json": '{"authors": "$import antigravity"}'},
    "an overlay": {"configs/evaluate.json": '{"+imports": ["$from os import system"]}'},
    "an overlay of a safe part": {"configs/train.json": '{"network_def": "$monai.bundle.run"}'},
    "an overlay that makes a module of a name": {"configs/train.json": '{"evaluator": "$os"}'},
    "a key that stands twice": {"configs/train.json": '{"a": "$os.system(\'id\')", "a": 1}'},
    "YAML": {"configs/train.yaml": "x:\n  _target_: os.system\n  command: id\n"},
    "YAML that makes objects": {"configs/train.yaml": "x: !!python/object/apply:os.system ['id']\n"},
    "YAML with a key of its own": {"configs/train.yml": "x: !evil {a: 1}\n"},
    "a bomb of YAML": {
        "configs/train.yaml": "a0: &a0 [1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
    },
    "YAML that holds itself": {"configs/train.yaml": "a: &a [*a]\n"},
    "nested too deeply": {"configs/train.json": _deep(100_000)},
    "nested deeply": {"configs/train.json": _deep(500)},
    "no JSON": {"configs/train.json": "{'x': 1}"},
    "another encoding": {"configs/train.json": '{"x": 1}'.encode("utf-16")},
    "a config outside of configs": {"extra/args.json": '{"x": "$os.system(\'id\')"}'},
    "logging by a program": {
        "configs/logging.conf": "[handler_x]\nclass=StreamHandler\nargs=(__import__('os').system('id'),)\n"
    },
    "logging to a file": {
        "configs/logging.conf": "[handler_x]\nclass=FileHandler\nargs=('/root/.bashrc', 'a')\n"
    },
    "logging to the network": {
        "configs/logging.conf": "[handler_x]\nclass=handlers.SocketHandler\nargs=('h', 1)\n"
    },
    "logging by interpolation": {
        "configs/logging.conf": "[DEFAULT]\ne=__import__('os').system('id')\n[handler_x]\nclass=StreamHandler\nargs=(%(e)s,)\n"
    },
    "a logging class that is a program": {"configs/logging.conf": "[handler_x]\nclass=eval\nargs=('1',)\n"},
    "a script": {"scripts/__init__.py": "", "scripts/net.py": "import torch\n"},
    "a script that runs commands": {"scripts/x.py": "import subprocess as s\ns.run(['id'])\n"},
    "a module in place of numpy": {"numpy.py": "x = 1\n"},
    "a package in place of torch": {"torch/__init__.py": "x = 1\n"},
    "a module in place of glob": {"glob.py": "x = 1\n"},
    "a compiled module": {"glob.cpython-311-x86_64-linux-gnu.so": b"\x7fELF\x02\x01"},
    "a compiled file of Python": {"fast.pyc": b"\xa7\r\r\n"},
    "a path file": {"x.pth": b"import antigravity\n"},
    "a program without a suffix": {"docs/README": b"#!/bin/sh\nid\n"},
    "a pickle": {"models/model.pkl": _EVIL},
    "a pickle named text": {"docs/notes.txt": _EVIL},
    "a pickle named as JSON": {"configs/extra.json": _EVIL},
    "an old pickle": {"models/model.pt": pickle.dumps(_Call(print, "x"), protocol=0)},
    "a pickle behind another": {"models/model.pt": pickle.dumps(1) + _EVIL},
    "a pickle with stacked names": {"models/model.pt": _STACKED},
    "a pickle that puts a name together": {"models/model.pt": _JOINED},
    "a pickle in an archive": {
        "models/model.pt": _zip(("archive/data.pkl", _EVIL), ("archive/version", b"3"))
    },
    "a pickle of another name in an archive": {"models/model.pt": _zip(("archive/extra", _EVIL))},
    "a class that no weights need": {
        "models/model.pt": _zip(("a/data.pkl", b"\x80\x02cthe.module\nNet\n)R."), ("a/version", b"3"))
    },
    "TorchScript": {
        "models/model.ts": _zip(("m/code/__torch__.py", b"def forward(self): ..."), ("m/version", b"3"))
    },
    "a program in an archive": {"models/model.zip": _zip(("setup.py", b"import os"))},
    "an archive that leaves its folder": {"models/model.zip": _zip(("../../.bashrc", b"id"))},
    "a pickle inside of a pickle": {
        "models/model.pt": b"\x80\x02ctorch.storage\n_load_from_bytes\nC\x01x\x85R."
    },
    "a pickle that hides a name": {
        "models/model.pt": b"\x80\x04\x8c\x02os\x8c\x06system\x8c\x05torch\x8c\x04Size00\x93\x8c\x02id\x85R."
    },
    "compiled code beside its source": {"scripts/__pycache__/net.cpython-311.pyc": b"\xa7\r\r\n"},
    "an array of objects": {"data/labels.npy": _OBJECTS},
    "an array of objects in an archive": {"data/labels.npz": _zip(("y.npy", _OBJECTS))},
    "a damaged archive": {"models/model.pt": b"PK\x03\x04 nothing"},
    "an archive of another kind": {"models/model.tar": b"x" * 600},
    "a gzip": {"models/model.pt.gz": b"\x1f\x8b" + b"x" * 60},
}


def bomb() -> bytes:
    """A zip archive that grows a thousandfold."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(20_000_000))
    return buffer.getvalue()


def twice() -> bytes:
    """A zip archive with two parts of one name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for content in (_EVIL, pickle.dumps(1)):
            archive.writestr("archive/data.pkl", content)
    return buffer.getvalue()


def build(
    folder: Path, keys: dict[str, Any] | None = None, files: dict[str, str | bytes] | None = None
) -> Path:
    """Write BASE with a trick into a folder."""
    written = {
        "LICENSE": "Apache-2.0",
        "configs/inference.json": json.dumps({**BASE, **(keys or {})}),
        "configs/metadata.json": json.dumps({"version": "0.1.0", "authors": "somebody"}),
        "docs/README.md": "# A bundle",
        **(files or {}),
    }
    for name, content in written.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder
