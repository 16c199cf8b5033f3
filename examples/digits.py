"""Images: handwritten digits as pictures, embedded by a small convolutional network.

python examples/digits.py
"""

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from hercules_scale import Hercules

digits = load_digits()
pictures = {
    f"digit {row}": Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((48, 48))
    for row, pixels in enumerate(digits.images[:600])
}
model = Hercules([20, 5], summaries="keyphrases", verbose=False)
hierarchy = model.fit(pictures, digits.target[:600])

print(hierarchy)
metrics = hierarchy.evaluations().query("basis == 'labels:label'")
print(metrics.pivot_table(index="level", columns="metric", values="value").round(3))
# Pictures of one cluster, such as the first, side by side.
items = hierarchy.table("items").set_index("item_id")
nearest = hierarchy.clusters(1)["exemplar_item_ids"][0]
print("nearest to the centroid of cluster 1/0:", ", ".join(nearest))
print("a thumbnail of it is", len(items.loc[nearest[0], "thumbnail"]), "bytes of PNG")
