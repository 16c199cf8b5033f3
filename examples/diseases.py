"""Texts: descriptions of diseases, titled by a small language model.

python examples/diseases.py
"""

from hercules_scale import Hercules
from hercules_scale.commands.demo import icd_table

codes = icd_table().slice(0, 1500).to_pandas().set_index("code")
hierarchy = Hercules([30, 6], topic="diseases").fit(codes["text"], codes["chapter"])

hierarchy.tree()
print(
    hierarchy.evaluations().pivot_table(index=["basis", "metric"], columns="level").value.round(3)
)

# New items find their place at every level.
print(hierarchy.assign({"new": "Infection of the lung by a virus"}).T)
