// Traces for the tests: version 1 of the JSON, as the server sends it.

const GIB = 1024 ** 3;

export function trace(parts = {}) {
  return {
    version: 1,
    prompt_id: "p",
    mode: "balanced",
    mode_reason: "",
    outcome: "success",
    started_unix_s: 0,
    duration_s: 10,
    components: [
      { key: "te", name: "clip_l.safetensors", kind: "CLIP", size_bytes: GIB },
      { key: "unet", name: "flux.safetensors", kind: "MODEL", size_bytes: 8 * GIB },
    ],
    nodes: [node("1", 0, 2, { stall_s: 1, computes: ["te"] }), node("2", 2, 10, { computes: ["unet"] })],
    transfers: [],
    evictions: [],
    decisions: [],
    summary: { compute_s: 9, stall_s: 1, wait_s: 0.5, prefetched_bytes: 8 * GIB, wasted_bytes: 0, evicted_bytes: GIB, nodes: 2 },
    ...parts,
  };
}

export function node(node_id, start_s, end_s, parts = {}) {
  return { node_id, class_type: "KSampler", start_s, end_s, stall_s: 0, loads: [], computes: [], ...parts };
}

export function transfer(component, start_s, end_s, parts = {}) {
  const status = end_s === null ? "running" : "done";
  return { component, tier: "host", start_s, end_s, moved_bytes: 4 * GIB, present_bytes: 8 * GIB, status, reason: "", ...parts };
}

export function eviction(component, time_s, parts = {}) {
  return { component, tier: "host", time_s, freed_bytes: GIB, reason: "room for flux", ...parts };
}
