"""The page of a server: a sentence or a pair, two models side by side, and the words that mattered.

One file without any outside part, so it works where there is no network. Colours are listed in
`COLOURS`, each with the ground it stands on; the tests hold their contrast to WCAG 2.2, level AA.
"""

import base64
import hashlib

COLOURS = {
    "text": "#1b1f24",
    "quiet": "#4a5360",
    "ground": "#ffffff",
    "panel": "#f3f5f8",
    "line": "#767f8c",
    "accent": "#0b57b0",
    "on-accent": "#ffffff",
    "focus": "#8a3ffc",
    "fault": "#a4161a",
    "for": "#bfe0ff",
    "for-line": "#0b57b0",
    "against": "#ffd9b8",
    "against-line": "#a04800",
}

STYLE = (
    ":root{color-scheme:light;"
    + "".join(f"--{name}:{value};" for name, value in COLOURS.items())
    + """}
*{box-sizing:border-box}
body{margin:0 auto;max-width:62rem;padding:1.5rem 1rem 3rem;color:var(--text);
 background:var(--ground);font:1rem/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;margin:0}
h2{font-size:1.1rem;margin:0 0 .5rem;overflow-wrap:anywhere}
h3{font-size:1rem;margin:1rem 0 .25rem}
p{margin:.25rem 0}
.quiet{color:var(--quiet)}
form{display:grid;gap:.75rem;margin:1rem 0}
label{display:block;font-weight:600}
textarea,select,input,button{font:inherit;color:var(--text);width:100%;padding:.5rem;
 background:var(--ground);border:1px solid var(--line);border-radius:.3rem}
textarea{min-height:4.5rem;resize:vertical}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(16rem,1fr));gap:1rem}
button{width:auto;justify-self:start;padding:.5rem 1.25rem;font-weight:600;
 color:var(--on-accent);background:var(--accent);border-color:var(--accent)}
:focus-visible{outline:3px solid var(--focus);outline-offset:2px}
section{background:var(--panel);border-radius:.5rem;padding:1rem}
table{width:100%;border-collapse:collapse}
th{font-weight:400;text-align:left;overflow-wrap:anywhere;padding:.15rem .5rem .15rem 0}
tr.best th,tr.best td{font-weight:700}
caption{text-align:left}
td{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.bar{width:50%;padding-left:.5rem}
td.bar span{display:block;height:.8rem;background:var(--accent);border-radius:.2rem;min-width:1px}
.words{line-height:2.1;white-space:pre-wrap;overflow-wrap:anywhere}
.words mark{color:inherit;background:none;padding:.1rem .15rem;border-radius:.2rem}
.words mark.for{background:var(--for);border-bottom:3px solid var(--for-line)}
.words mark.against{background:var(--against);border-bottom:3px dashed var(--against-line)}
.words small{font-size:.75rem;color:var(--text)}
.fault{color:var(--fault);font-weight:600}
"""
)

SCRIPT = """
'use strict';
const at = id => document.getElementById(id);
const make = (name, text, kind) => {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
};
async function ask(path, body) {
  const headers = {'content-type': 'application/json'};
  if (at('key').value) headers['x-api-key'] = at('key').value;
  const options = body ? {method: 'POST', body: JSON.stringify(body), headers} : {headers};
  const answer = await fetch(path, {...options, signal: AbortSignal.timeout(30000)});
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error || 'status ' + answer.status);
  return found;
}
async function load() {
  const known = (await ask('models')).models.filter(m => m.answers.includes('/explain'));
  for (const id of ['first', 'second']) {
    at(id).replaceChildren();
    if (id === 'second') at(id).append(new Option('none', ''));
    for (const model of known) at(id).append(new Option(model.name, model.name));
  }
  if (known.length > 1) at('second').value = known[1].name;
  at('state').textContent = known.length
    ? 'Ready.' : 'This server has no model that classifies texts.';
}
function chances(prediction) {
  const table = make('table');
  const caption = make('caption', 'score' in prediction ? 'Score' : 'Probabilities', 'quiet');
  table.append(caption);
  if ('score' in prediction) {
    const row = table.insertRow();
    row.append(make('th', 'score'), make('td', prediction.score.toFixed(3)));
    return table;
  }
  for (const [label, value] of Object.entries(prediction.probabilities)) {
    const row = table.insertRow();
    if (label === prediction.label) row.className = 'best';
    const head = make('th', label);
    head.scope = 'row';
    const bar = make('td', undefined, 'bar');
    const fill = make('span');
    fill.style.width = (100 * value).toFixed(1) + '%';
    bar.append(fill);
    row.append(head, make('td', (100 * value).toFixed(1) + ' %'), bar);
  }
  return table;
}
function marked(text, words, largest) {
  const letters = Array.from(text);  // places are counted in code points
  const line = make('p', undefined, 'words');
  let done = 0;
  for (const word of words) {
    line.append(letters.slice(done, word.start).join(''));
    const share = Math.abs(word.weight) >= 0.005 ? word.weight / largest : 0;
    const kind = share > 0.1 ? 'for' : share < -0.1 ? 'against' : '';
    const mark = make('mark', letters.slice(word.start, word.end).join(''), kind);
    if (kind) {
      const figure = (word.weight > 0 ? '+' : '\\u2212') + Math.abs(word.weight).toFixed(2);
      mark.append(make('small', '\\u00a0' + figure));
    }
    line.append(mark);
    done = word.end;
  }
  line.append(letters.slice(done).join(''));
  return line;
}
let runs = 0;
async function show(place, model, text, pair, run) {
  place.hidden = !model;
  if (!model) return;
  const parts = [make('h2', model)];
  try {
    const body = pair ? {text, pair, model} : {text, model};
    const found = await ask('explain', body);
    const prediction = found.prediction;
    if ('label' in prediction) parts.push(make('p', 'Answer: ' + prediction.label));
    parts.push(chances(prediction), make('h3', 'Words that mattered'));
    if (!found.words.length)
      parts.push(make('p', 'A single word cannot be left out.', 'quiet'));
    const largest = Math.max(0, ...found.words.map(word => Math.abs(word.weight)));
    if (found.words.length && largest < 0.005)
      parts.push(make('p', 'No word by itself changes the answer by 0.005 or more.', 'quiet'));
    for (const [side, part] of [text, pair].entries())
      if (part) parts.push(marked(part, found.words.filter(w => w.side === side), largest));
  } catch (fault) {
    parts.push(make('p', fault.message, 'fault'));
  }
  if (run === runs) place.replaceChildren(...parts);  // else a later comparison has begun
}
at('form').addEventListener('submit', async event => {
  event.preventDefault();
  const text = at('text').value.trim(), pair = at('pair').value.trim();
  if (!text) {
    at('state').textContent = 'Type a text first.';
    at('text').focus();
    return;
  }
  at('state').textContent = 'Computing.';
  const run = ++runs;
  await Promise.all([show(at('left'), at('first').value, text, pair, run),
                     show(at('right'), at('second').value, text, pair, run)]);
  if (run === runs) at('state').textContent = 'Done.';
});
at('form').addEventListener('keydown', event => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) at('form').requestSubmit();
});
const start = () => load().catch(fault => { at('state').textContent = fault.message; });
at('key').addEventListener('change', start);
start();
"""

PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>nlpapp: compare two models</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>Compare two models</h1>
<p class="quiet">Type a sentence, or two that belong together. Ctrl+Enter in a field compares.</p>
<form id="form">
<div><label for="text">Text</label><textarea id="text" name="text"></textarea></div>
<div><label for="pair">Second text, for models of pairs (optional)</label>
<textarea id="pair" name="pair"></textarea></div>
<div class="two">
<div><label for="first">First model</label><select id="first"></select></div>
<div><label for="second">Second model</label><select id="second"></select></div>
</div>
<details><summary>API key</summary>
<label for="key">Key, if this server asks for one; it is not stored</label>
<input id="key" type="password" autocomplete="off"></details>
<button type="submit">Compare</button>
</form>
<p id="state" role="status">Loading.</p>
<div class="two">
<section id="left" aria-label="First model" hidden></section>
<section id="right" aria-label="Second model" hidden></section>
</div>
<p class="quiet">A word matters by what its absence changes: solid underline, the answer gets less
likely without it; dashed, more likely. Changes below 0.005 or a tenth of the largest are not
marked.</p>
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _digest(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_digest(SCRIPT)}",
        f"style-src {_digest(STYLE)}",
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Forbids everything but this script, this style, and requests to this server."""
