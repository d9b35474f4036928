"""The page's style: system fonts, two schemes of colours after the reader's own setting, and paper."""

_LIGHT = {
    "bg": "#ffffff",
    "ink": "#1a1d21",
    "muted": "#59626e",
    "line": "#dce0e6",
    "panel": "#f5f6f8",
    "link": "#1d5bbf",
    "bad": "#a8200d",
    "bad-bg": "#fdf0ee",
    "warn": "#7a4f00",
    "warn-bg": "#fcf5e4",
    "good": "#16693a",
    "s0": "#1d5bbf",
    "s1": "#c2410c",
    "s2": "#0b766f",
    "s3": "#8a3fb5",
    "s4": "#7a6100",
}
_DARK = {
    "bg": "#14171b",
    "ink": "#e6e9ed",
    "muted": "#9ba5b1",
    "line": "#30363e",
    "panel": "#1c2026",
    "link": "#7fb0ff",
    "bad": "#ff9a8a",
    "bad-bg": "#35201d",
    "warn": "#f0c266",
    "warn-bg": "#2e2717",
    "good": "#6fd39b",
    "s0": "#6ea8ff",
    "s1": "#ff9a5c",
    "s2": "#4fd1c1",
    "s3": "#cf9bff",
    "s4": "#e0c24e",
}

_RULES = """
* { box-sizing: border-box; }
html { background: var(--bg); color: var(--ink); font: 16px/1.55 var(--sans); -webkit-text-size-adjust: 100%; }
body { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; line-height: 1.3; letter-spacing: -0.01em; margin: 0 0 .5rem; }
h3 { font-size: 1rem; margin: 2rem 0 .25rem; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: var(--link); }
strong { font-weight: 650; font-variant-numeric: tabular-nums; }
section { margin-top: 3rem; padding-top: 1.75rem; border-top: 1px solid var(--line); }
.about { color: var(--muted); margin: .4rem 0 0; overflow-wrap: anywhere; }
.verdict { margin: 1.75rem 0 0; padding: 0; list-style: none; }
.verdict li { margin: .45rem 0; max-width: 46rem; }
.verdict li:first-child { font-size: 1.4rem; line-height: 1.35; letter-spacing: -0.01em; margin-bottom: .9rem; }
.verdict small { display: block; font-size: .875rem; letter-spacing: 0; color: var(--muted); }
.box { margin: 1.5rem 0 0; padding: .8rem 1.1rem; border-left: 4px solid; border-radius: 4px; overflow-wrap: anywhere; }
.box p { margin: .2rem 0; }
.box ul { margin: .2rem 0; padding-left: 1.1rem; }
.bad { color: var(--bad); background: var(--bad-bg); }
.warn { color: var(--warn); background: var(--warn-bg); }
nav { margin-top: 1.75rem; font-size: .875rem; line-height: 1.9; }
nav a { margin-right: 1.1rem; white-space: nowrap; text-decoration: none; }
nav a:hover { text-decoration: underline; }
figure { margin: 1.5rem 0; }
figcaption { font-weight: 600; font-size: .9375rem; margin-bottom: .6rem; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-variant-numeric: tabular-nums; }
figure svg.narrow { display: none; max-width: 30rem; }
.scroll { overflow-x: auto; margin: 1.25rem 0; }
.scroll:focus-visible, a:focus-visible, pre:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .875rem; line-height: 1.45; }
caption { text-align: left; font-weight: 600; font-size: .9375rem; padding-bottom: .5rem; }
th, td { padding: .38rem .8rem .38rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 500; text-align: left; }
thead th { color: var(--muted); vertical-align: bottom; }
tbody th { white-space: nowrap; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; padding-left: .8rem; }
.t { text-align: left; }
td { white-space: nowrap; }
th:last-child, td:last-child { padding-right: 0; }
dl { margin: 1rem 0; font-size: .875rem; }
dl div { display: grid; grid-template-columns: 12rem 1fr; gap: 1rem; padding: .38rem 0; border-bottom: 1px solid var(--line); }
dt { color: var(--muted); overflow-wrap: anywhere; }
dd { margin: 0; overflow-wrap: anywhere; }
pre { background: var(--panel); padding: .9rem 1rem; border-radius: 6px; font: .8125rem/1.5 var(--mono); white-space: pre-wrap;
  overflow-wrap: anywhere; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--muted); font-size: .8125rem; }
@media (max-width: 47.5rem) {
  body { padding: 1.5rem 1.25rem 3rem; }
  h1 { font-size: 1.4rem; }
  .verdict li:first-child { font-size: 1.2rem; }
  section { margin-top: 2.25rem; padding-top: 1.5rem; }
  figure svg.wide { display: none; }
  figure svg.narrow { display: block; }
  dl div { grid-template-columns: 1fr; gap: 0; }
}
@media print {
  html { font-size: 10.5pt; }
  body { max-width: none; padding: 0; }
  nav { display: none; }
  figure svg.wide { display: block; }
  figure svg.narrow { display: none; }
  figure, .box, tr { break-inside: avoid; }
  h2, h3, figcaption, caption { break-after: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td, .n, tbody th { padding-right: .4rem; white-space: normal; }
  .n { padding-left: .4rem; }
}
"""
_FONTS = (
    '--sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", Arial, sans-serif; '
    '--mono: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;'
)


def css() -> str:
    """The whole style sheet. On paper the colours are those of the light scheme."""
    return (
        f":root {{ color-scheme: light dark; {_FONTS} {_variables(_LIGHT)} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {_variables(_DARK)} }} }}"
        f"{_RULES}"
    )


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())
