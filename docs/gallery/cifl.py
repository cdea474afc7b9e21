# %% [markdown]
# # CIFL: features that do not depend on the contrast
#
# A small network, trained on random shapes alone, turns an image into 16 feature images that follow the
# anatomy and not the contrast. So a U-Net that was trained on the features of T1 slices can be applied to
# contrasts that it never saw. Both sets of weights ship with the bundles; the brains here are virtual
# subjects of the embedded data.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import monai
import torch
from monai.metrics import compute_dice

from robustmed_monai.data.pairs import tissue_images
from robustmed_monai.metrics import s_same
from robustmed_monai.transforms.contrasts import brain_mask, shown_contrasts
from robustmed_monai.utils.bundle import bundle_root

bundles = str(Path(bundle_root("cifl")).parent)
features = monai.bundle.load("cifl", bundle_dir=bundles).eval()
segment = monai.bundle.load("cifl_segmentation", bundle_dir=bundles).eval()

# %% [markdown]
# One healthy test slice of each of twelve subjects, in four contrasts; inversion is the hardest.

# %%
test = tissue_images("test").tensors
middle = test["group"] == 2
images, labels = test["image"][middle], test["label"][middle]
shown = shown_contrasts(images, labels)
contrasts = {name: shown[name] for name in ("t1", "inverted", "remapped", "t2_like")}

with torch.no_grad():
    maps = {name: features(x) for name, x in contrasts.items()}
    found = {name: segment(x).argmax(1, keepdim=True) for name, x in contrasts.items()}

# %% [markdown]
# How alike are features, and images, of two contrasts (mean cosine over the brain, 1 is the same)? And how
# good is a segmentation that learned from T1 alone (Dice of CSF, grey and white matter)?

# %%
brain = brain_mask(labels)
alike, raw, dice = {}, {}, {}
for name, x in contrasts.items():
    alike[name] = s_same(maps["t1"], maps[name], brain).mean()
    raw[name] = s_same(images, x, brain).mean()
    tissue = torch.arange(1, 4)[:, None, None]
    dice[name] = compute_dice(found[name] == tissue, labels == tissue).mean()
    print(f"{name:9}: images alike {raw[name]:.2f}, features alike {alike[name]:.2f}, Dice {dice[name]:.2f}")

# %%
channels = maps["t1"][0].flatten(1).abs().mean(1).topk(3).indices
figure, axes = plt.subplots(len(contrasts), 5, figsize=(5.8, 1.22 * len(contrasts)), layout="constrained")
for row, (name, x) in enumerate(contrasts.items()):
    axes[row, 0].imshow(x[0, 0].T.numpy(), cmap="gray", vmin=0, vmax=1)
    axes[row, 0].set_ylabel(name.replace("_", " "), fontsize=9)
    for column, channel in enumerate(channels, 1):
        axes[row, column].imshow(maps[name][0, channel].T.numpy(), cmap="gray", vmin=-2, vmax=2)
    axes[row, 4].imshow(found[name][0, 0].T.numpy(), cmap="viridis", vmin=0, vmax=3)
    axes[row, 4].set_xlabel(f"Dice {dice[name]:.2f}", fontsize=8)
    axes[row, 2].set_xlabel(f"features alike {alike[name]:.2f}, images {raw[name]:.2f}", fontsize=8)
for axis, title in zip(axes[0], ("image", "channel", "channel", "channel", "segmentation"), strict=True):
    axis.set_title(title, fontsize=9)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
figure.savefig("cifl.png", dpi=90)
