// Numbers and names as people read them. Pure: bytes and seconds in, text out.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** Three significant digits, never an exponent: 1.23, 12.3, 123, 1023. */
function digits(value) {
  if (value >= 99.95) return value.toFixed(0);
  return value >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}

/** 0 → "0 B", 1536 → "1.50 KiB"; an unknown number → "–". Budgets may honestly be negative. */
export function formatBytes(size_bytes) {
  if (!Number.isFinite(size_bytes)) return "–";
  if (size_bytes < 0) return `−${formatBytes(-size_bytes)}`;
  let value = size_bytes;
  let unit = 0;
  while (value >= 1023.5 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return unit === 0 ? `${Math.round(value)} B` : `${digits(value)} ${UNITS[unit]}`;
}

/** 0.0123 → "12 ms", 1.234 → "1.23 s", 123 → "2 min 03 s". */
export function formatSeconds(time_s) {
  if (!Number.isFinite(time_s)) return "–";
  if (time_s < 0) return `−${formatSeconds(-time_s)}`;
  if (time_s === 0) return "0 s";
  if (time_s < 0.0005) return "<1 ms";
  if (time_s < 0.0995) return `${Math.round(time_s * 1000)} ms`;
  if (time_s < 99.95) return `${digits(time_s)} s`;
  const whole = Math.round(time_s);
  const pad = (number) => String(number).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${pad(whole % 60)} s`;
  const minutes = Math.round(whole / 60);
  return `${Math.floor(minutes / 60)} h ${pad(minutes % 60)} min`;
}

/** Bytes over seconds; "–" where no time has passed. */
export function formatRate(size_bytes, time_s) {
  return size_bytes > 0 && time_s > 0 ? `${formatBytes(size_bytes / time_s)}/s` : "–";
}

/** Part of a whole as "25 %"; "–" where there is no whole. */
export function formatPercent(part, whole) {
  if (!(whole > 0) || !Number.isFinite(part)) return "–";
  const percent = (100 * part) / whole;
  return percent > 0 && percent < 9.95 ? `${percent.toFixed(1)} %` : `${Math.round(percent)} %`;
}

/** A tick of the time axis: as many decimals as the step between ticks needs. */
export function formatTick(time_s, step_s) {
  if (step_s >= 60) return formatSeconds(time_s);
  if (step_s < 0.001) return `${+(time_s * 1000).toFixed(2)} ms`;
  if (step_s < 0.01) return `${Math.round(time_s * 1000)} ms`;
  const decimals = Math.max(0, Math.ceil(-Math.log10(step_s) - 1e-9));
  return `${time_s.toFixed(decimals)} s`;
}

/** The longest beginning of `text` that fits `width_px`, with an ellipsis; "" where not even three characters fit. */
export function fitText(text, width_px, measure) {
  if (measure(text) <= width_px) return text;
  let low = 0;
  let high = text.length;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (measure(`${text.slice(0, middle)}…`) <= width_px) low = middle;
    else high = middle - 1;
  }
  return low < 3 ? "" : `${text.slice(0, low)}…`;
}
