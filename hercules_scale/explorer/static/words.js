"use strict";
// Names of metrics and keys in words.

const METRICS = {
  ari: "Adjusted Rand index", nmi: "Normalised mutual information", ami: "Adjusted mutual information",
  davies_bouldin: "Davies–Bouldin", calinski_harabasz: "Calinski–Harabasz",
  label_accuracy: "Label accuracy", label_accuracy_weighted: "Label accuracy, mean over items",
  label_accuracy_centroids: "Label accuracy with cluster means as labels", label_accuracy_chance: "Label accuracy by chance",
  share_ok: "Labels written by the model", share_titles_by_model: "Titles written by the model",
  share_distinct_siblings: "Titles unlike all siblings'", share_distinct_level: "Titles unlike all others of the level",
  groundedness_titles: "Words of titles found in items", groundedness_descriptions: "Words of descriptions found in items",
  llm_silhouette: "Silhouette of descriptions", llm_davies_bouldin: "Davies–Bouldin of descriptions", llm_calinski_harabasz: "Calinski–Harabasz of descriptions",
};
const BASES = { items: "Items", children: "Clusters one level down", summaries: "Titles and descriptions" };

const SPELLED = { csv: "CSV", id: "ID", llm: "LLM", gpus: "GPUs", cpus: "CPUs", gib: "GiB" };

export const capital = (words) => words.charAt(0).toUpperCase() + words.slice(1);
/** A key such as text_column in words. */
export const inWords = (key) => {
  const words = String(key).replace(/[_/]/g, " ").split(" ").map((word) => Object.hasOwn(SPELLED, word) ? SPELLED[word] : word).join(" ");
  return capital(words);
};
const known = (names, key) => Object.hasOwn(names, key) ? names[key] : inWords(key);
export const metricName = (metric) => known(METRICS, metric);
export const basisName = (basis) => basis.startsWith("labels:") ? `Ground truth “${basis.slice(7)}”` : known(BASES, basis);
