# %% [markdown]
# # Whole heads of any contrast: tissues and registration
#
# Two overlays called `whole_head`, of `cifl_segmentation` and `cifl_registration`, need no trained weights: a
# head is aligned to MNI152, a mixture of Gaussians finds its tissues, and Gauss-Newton steps register it to
# another. On the command line: `robustmed infer cifl_segmentation head.nii.gz --overlay whole_head`. The
# heads here are virtual subjects; one is shown as T1, one painted as FLAIR and one as T2.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from monai.data import MetaTensor
from monai.metrics import compute_dice
from monai.transforms import Compose, Invertd

from robustmed_monai.data.virtual_subjects import AFFINE, virtual_subject
from robustmed_monai.networks import HeadRegistration, TissueMixture
from robustmed_monai.transforms import AlignPaird, AlignToTemplated, ScaleForegroundd
from robustmed_monai.transforms.contrasts import T2_MEANS, head_classes, tissue_contrast
from robustmed_monai.transforms.fields import warp

# Background, CSF, grey and white matter, then muscle and fat of the head around them.
flair = ((0.0, 0.04), (0.1, 0.15), (0.68, 0.72), (0.54, 0.58), (0.3, 0.45), (0.6, 0.8))
subjects = [virtual_subject(0, index) for index in (36, 40, 46)]
images = [torch.from_numpy(subject.image)[None, None] for subject in subjects]
truths = [torch.from_numpy(subject.labels)[None, None].long() for subject in subjects]
for place, means in ((1, flair), (2, T2_MEANS)):
    images[place] = tissue_contrast(head_classes(images[place], truths[place]), means)
heads = [MetaTensor(image[0], affine=torch.from_numpy(AFFINE)) for image in images]

# %% [markdown]
# Segmentation: into the frame of the template, tissues, and back onto the grid of the image.

# %%
frame = {"size": 112, "spacing": 2.0, "heights": (-72.0, 90.0)}
prepare = Compose([ScaleForegroundd("image"), AlignToTemplated("image", **frame)])
back = Invertd("pred", prepare, orig_keys="image", nearest_interp=False)
mixture = TissueMixture()
found = []
for name, head, truth in zip(("T1", "FLAIR", "T2"), heads, truths, strict=True):
    item = prepare({"image": head})
    item["pred"] = MetaTensor(mixture(item["image"][None])[0].softmax(0))
    labels = back(item)["pred"].argmax(0)
    # The ventricles hold CSF, cerebellum and brainstem are grey and white matter, as the truth has it.
    labels = torch.tensor([0, 1, 2, 3, 1, 2, 3, 3])[labels.as_tensor()]
    found.append(labels)
    tissue = torch.arange(1, 4)[:, None, None, None]
    dice = compute_dice((labels == tissue)[None], (truth[0] == tissue)[None])[0]
    print(f"{name:6} Dice of CSF {dice[0]:.2f}, grey matter {dice[1]:.2f}, white matter {dice[2]:.2f}")

# %% [markdown]
# Registration: the T1 of the first subject to the FLAIR of the second.

# %%
pair = AlignPaird(**frame)({"moving": heads[0], "fixed": heads[1]})
source, target = pair["source"][None].as_tensor(), pair["target"][None].as_tensor()
with torch.no_grad():
    field = HeadRegistration()(source, target)["ddf"]
moved = warp(source, field)

# %%
colours = ListedColormap(["black", "#0072b2", "#e69f00", "#f0f0f0"])
figure, axes = plt.subplots(3, 3, figsize=(5.4, 5.6), layout="constrained")
for column, (name, head, labels) in enumerate(zip(("T1", "FLAIR", "T2"), heads, found, strict=True)):
    axes[0, column].imshow(head[0, :, :, 40].T.numpy(), cmap="gray", vmin=0, vmax=1)
    axes[0, column].set_title(f"subject {column + 1}, {name}", fontsize=9)
    axes[1, column].imshow(labels[:, :, 40].T.numpy(), cmap=colours, vmin=-0.5, vmax=3.5)
    axes[1, column].set_title("tissues found", fontsize=9)
for axis, volume, title in zip(
    axes[2],
    (source, target, moved),
    ("subject 1 aligned", "subject 2 aligned", "1 registered to 2"),
    strict=True,
):
    axis.imshow(np.rot90(volume[0, 0, :, :, 46].numpy()), cmap="gray", vmin=0, vmax=1)
    axis.set_title(title, fontsize=9)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
figure.savefig("whole_heads.png", dpi=90)
