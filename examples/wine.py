"""Numbers: wines and what was measured of them, with names and units.

python examples/wine.py
"""

import pandas as pd
from sklearn.datasets import load_wine

from hercules_scale import Hercules

wine = load_wine(as_frame=True)
metadata = {
    "alcohol": {"unit": "%", "description": "by volume"},
    "magnesium": {"unit": "mg/l"},
    "od280/od315_of_diluted_wines": {"name": "protein ratio"},
}
model = Hercules([9, 3], summaries="keyphrases", input={"metadata": metadata}, verbose=False)
hierarchy = model.fit(wine.data, wine.target)

hierarchy.tree()
largest = hierarchy.clusters(2).sort_values("n_items").iloc[-1]
print(f"\n{largest['title']}, in original units:")
print(pd.DataFrame(list(largest["numeric_stats"])).round(2).to_string(index=False))
metrics = hierarchy.evaluations().query("basis == 'labels:label'")
print(metrics.pivot_table(index="level", columns="metric", values="value").round(3))
