// A badge on nodes whose memory setting differs from the workflow's. The front end asks for it whenever it draws, in both renderers.

const SILENT = { memory_mode: "workflow", strategy: "auto" };

/** What the badge says: the settings that differ, or nothing. */
export function badgeText(widgets) {
  const told = (widgets ?? []).filter(({ name, value }) => name in SILENT && value !== SILENT[name]);
  return told.map(({ value }) => String(value)).join(" · ");
}

/** Gives a node that has a memory setting its badge. */
export function addBadge(node) {
  if (!node.widgets?.some(({ name }) => name in SILENT) || !window.LGraphBadge) return;
  let badge = new LGraphBadge({ text: "" });
  node.badges.push(() => {
    const text = badgeText(node.widgets);
    if (badge.text !== text) badge = new LGraphBadge({ text, fgColor: "#fff", bgColor: "#3b5f8a" });
    return badge;
  });
}
