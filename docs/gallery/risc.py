# %% [markdown]
# # RISC: a classifier that does not mind how the image is rotated
#
# A classifier of upright images fails when the image is rotated. RISC asks a second network, RotNet, by
# how much, rotates it back, and classifies what is left. RotNet needs no labels. Here both are trained
# on the embedded brains for some seconds; the class is the height of the slice, 0 to 4. The weights that
# ship with the bundle were trained on chest X-rays and retinas.

# %%
import matplotlib.pyplot as plt
from monai.bundle import ConfigWorkflow

from robustmed_monai.data import labelled_images
from robustmed_monai.inferers import RotationCorrectionInferer
from robustmed_monai.networks.risc import load_risc
from robustmed_monai.transforms import rotate
from robustmed_monai.utils.bundle import bundle_root

configs = bundle_root("risc") + "/configs"
workflow = ConfigWorkflow(
    f"{configs}/train.json",
    logging_file=False,
    workflow_type="train",
    output_dir="out/risc",
    max_epochs=18,
    val_interval=18,
    depth=10,
    width=0.25,
)
workflow.initialize()
workflow.run()
workflow.finalize()
network = load_risc("out/risc/model.pt")
rotnet, classifier = network.rotnet, network.classifier

# %% [markdown]
# Test slices at all four angles. The inferer works around any MONAI classifier: `correction="none"` is the
# classifier alone.

# %%
test = labelled_images("test").tensors
images, labels = test["image"], test["label"]
methods = {
    "classifier alone": RotationCorrectionInferer(rotnet, correction="none", axes="XY"),
    "RISC": RotationCorrectionInferer(rotnet, correction="hard", axes="XY"),
}
accuracy: dict[str, list[float]] = {name: [] for name in methods}
for turn in range(4):
    turned = rotate(images, turn, 4)
    for name, inferer in methods.items():
        right = inferer(turned, classifier)["pred"].argmax(1) == labels
        accuracy[name].append(float(right.float().mean()))
print({name: [round(value, 2) for value in values] for name, values in accuracy.items()})

# %% [markdown]
# Above a slice as it came in, below as the classifier gets to see it; beside them what that is worth.

# %%
figure = plt.figure(figsize=(6.4, 2.6), layout="constrained")
grid = figure.add_gridspec(2, 7)
for turn in range(4):
    turned = rotate(images[:1], turn, 4)
    found = methods["RISC"](turned, classifier)
    for row, (title, picture) in enumerate(
        {f"{90 * turn}°": turned, f"found {float(found['angle'][0]):.0f}°": found["corrected"]}.items()
    ):
        axis = figure.add_subplot(grid[row, turn])
        axis.imshow(picture[0, 0].T.numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize=9)
        axis.set(xticks=[], yticks=[])
axis = figure.add_subplot(grid[:, 4:])
for shift, (name, values) in enumerate(accuracy.items()):
    axis.bar([turn + 0.4 * shift for turn in range(4)], values, 0.4, label=name)
axis.set_xticks([turn + 0.2 for turn in range(4)], [f"{90 * turn}°" for turn in range(4)], fontsize=8)
axis.set_ylim(0, 1.2)
axis.set_ylabel("accuracy", fontsize=8)
axis.tick_params(labelsize=8)
axis.legend(fontsize=8, loc="upper center", ncols=2)
figure.savefig("risc.png", dpi=90)
