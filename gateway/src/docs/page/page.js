// The page at /docs: reads /openapi.json, shows every operation, calls it.
//
// Lives here: building the page, forms to requests, answers to text. Does not: knowledge of any API; all of it is in the document.
// Invariant: what the document or an answer says only ever becomes text, never markup: it comes from services.

const LOOK_AGAIN = 10_000; // ms between looks whether the API has changed
const SHOWN = 400_000; // characters of an answer that are shown
const METHODS = ['get', 'put', 'post', 'delete', 'options', 'head', 'patch', 'trace'];

const byId = (id) => document.getElementById(id);

/** Makes an element; strings become text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((it) => it !== null && it !== undefined && it !== false));
  return element;
}

/** A text of the document: what stands between back-ticks is code, in Markdown and so in comments of protos. */
function prose(tag, attributes, text) {
  const parts = (text ?? '').split('`');
  if (parts.length % 2 === 0) return make(tag, attributes, text); // one has no other: it is just a sign
  return make(tag, attributes, ...parts.map((part, at) => (at % 2 === 1 ? make('code', {}, part) : part)));
}

let api = null;
let tag = null; // of the document that is shown

/** Follows a reference within the document. */
function resolve(value) {
  let found = value;
  for (let hops = 0; found && found.$ref && hops < 8; hops++) {
    found = found.$ref.slice(2).split('/').reduce((at, part) => at?.[part.replaceAll('~1', '/').replaceAll('~0', '~')], api);
  }
  return found ?? {};
}

function operationsOf(item) {
  const listed = METHODS.filter((method) => item[method]).map((method) => [method.toUpperCase(), item[method]]);
  return listed.concat(Object.entries(item['x-weft-methods'] ?? {}));
}

function all() {
  return Object.entries(api.paths).flatMap(([path, item]) =>
    operationsOf(item).map(([method, operation]) => ({ method, path, operation })));
}

// --- types

function kindOf(schema) {
  if (schema.$ref) return schema.$ref.split('/').pop();
  if (schema.anyOf) return schema.anyOf.map(kindOf).join(' | ');
  if (schema.enum && !schema.type) return schema.enum.map((it) => JSON.stringify(it)).join(' | ');
  const type = Array.isArray(schema.type) ? schema.type.join(' | ') : schema.type ?? 'any';
  if (type === 'array') return `${kindOf(schema.items ?? {})}[]`;
  if (type === 'object' && schema.additionalProperties?.constructor === Object) return `{ [key]: ${kindOf(schema.additionalProperties)} }`;
  const more = schema.format ?? (schema.contentEncoding && `${schema.contentEncoding} bytes`);
  return more ? `${type} (${more})` : type;
}

/** The schema below which members lie, if any. */
function inner(schema) {
  if (schema.$ref) return inner(resolve(schema));
  if (schema.anyOf) return schema.anyOf.map(inner).find(Boolean);
  if (schema.items) return inner(schema.items);
  if (schema.additionalProperties?.constructor === Object) return inner(schema.additionalProperties);
  return schema.properties || schema.enum ? schema : undefined;
}

/** Members one level deep; deeper ones are made when they are opened, since types may hold themselves. */
function members(schema) {
  if (schema.enum) return make('ul', {}, ...schema.enum.map((it) => make('li', {}, JSON.stringify(it))));
  const rows = Object.entries(schema.properties ?? {}).map(([name, member]) => {
    const title = [make('b', {}, name), ': ', make('span', { class: 'kind' }, kindOf(member)), member.deprecated ? ' (deprecated)' : ''];
    const said = member.description && prose('span', { class: 'said' }, member.description);
    const below = inner(member);
    return make('li', {}, below ? lazily(make('summary', {}, ...title), () => members(below)) : make('span', {}, ...title), said);
  });
  return make('ul', {}, ...rows);
}

function lazily(summary, content) {
  const details = make('details', {}, summary);
  details.addEventListener('toggle', () => details.open && details.append(content()), { once: true });
  return details;
}

function typeOf(schema) {
  const below = inner(schema);
  const kind = make('span', { class: 'kind' }, kindOf(schema));
  return make('div', { class: 'type' }, below ? lazily(make('summary', {}, kind), () => members(below)) : kind);
}

function contentOf(content) {
  return Object.entries(content ?? {}).flatMap(([type, media]) => [
    make('div', { class: 'grpc' }, type),
    media['x-weft-item'] ? typeOf(media['x-weft-item']) : media.schema ? typeOf(media.schema) : null,
  ]);
}

// --- one operation

/** An input for a parameter; its value is read by `read`. */
function input(parameter, id) {
  const schema = resolve(parameter.schema ?? {});
  const choices = schema.enum ?? (schema.type === 'boolean' ? ['true', 'false'] : null);
  if (choices) {
    return make('select', { id }, make('option', { value: '' }, '—'), ...choices.map((it) => make('option', {}, String(it))));
  }
  if (schema.type === 'array') return make('textarea', { id, rows: 2, spellcheck: 'false', placeholder: 'one value a line' });
  return make('input', { id, autocomplete: 'off', spellcheck: 'false', pattern: schema.pattern, required: parameter.required });
}

function parameterRow(parameter, id) {
  const field = input(parameter, id);
  const kind = `${kindOf(parameter.schema ?? {})}, ${parameter.in}${parameter.required ? ', required' : ''}`;
  const row = make('div', { class: 'parameter' },
    make('label', { for: id }, make('code', {}, parameter.name), make('div', { class: 'quiet' }, kind)),
    make('div', { class: 'field' }, field, parameter.description ? prose('div', { class: 'quiet' }, parameter.description) : null));
  return { parameter, field, row };
}

function bodyForm(operation, id) {
  const content = operation.requestBody?.content;
  if (!content) return null;
  const types = Object.keys(content).filter((it) => it !== 'multipart/form-data'); // a text area makes no files
  const raw = types[0] === '*/*';
  const type = raw
    ? make('input', { id: `${id}-type`, value: 'text/plain', 'aria-label': 'Content type' })
    : make('select', { id: `${id}-type`, 'aria-label': 'Content type' }, ...types.map((it) => make('option', {}, it)));
  const example = content[types[0]].example;
  const text = make('textarea', { id: `${id}-body`, rows: raw ? 4 : 8, spellcheck: 'false', 'aria-label': 'Request body' });
  let offered = written(example, type.value);
  text.value = offered;
  type.addEventListener('change', () => {
    const untouched = text.value === offered;
    offered = written(example, type.value);
    if (untouched) text.value = offered;
  });
  return { type, text };
}

/** An example in the form of a media type. */
function written(example, type) {
  if (example === undefined) return '';
  if (type.includes('ndjson') && Array.isArray(example)) return example.map((it) => JSON.stringify(it)).join('\n');
  if (type !== 'application/x-www-form-urlencoded') return JSON.stringify(example, null, 2);
  const fields = Object.entries(example).flatMap(([name, value]) => [value].flat().map((it) => [name, it]));
  return new URLSearchParams(fields.filter(([, value]) => typeof value !== 'object')).toString();
}

/** Path, query and headers from the form; a required value that is missing is shown and ends it. */
function target(path, rows) {
  let url = path;
  const query = [];
  const headers = {};
  for (const { parameter, field } of rows) {
    const text = field.value;
    field.classList.toggle('missing', parameter.in === 'path' && text === '' && !parameter['x-weft-many']);
    if (field.classList.contains('missing')) {
      field.focus();
      return null;
    }
    if (parameter.in === 'path') {
      const encoded = parameter['x-weft-many'] ? text.split('/').map(encodeURIComponent).join('/') : encodeURIComponent(text);
      url = url.replace(`{${parameter.name}}`, () => encoded);
    } else if (parameter.in === 'header') {
      if (text !== '') headers[parameter.name] = text;
    } else if (text !== '') {
      const values = field.tagName === 'TEXTAREA' ? text.split('\n').filter(Boolean) : [text];
      values.forEach((it) => query.push(`${encodeURIComponent(parameter.name)}=${encodeURIComponent(it)}`));
    }
  }
  return { url: query.length ? `${url}?${query.join('&')}` : url, headers };
}

function asCurl(request) {
  const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
  const parts = ['curl', '-i', '-X', request.method, quote(location.origin + request.url)];
  for (const [name, value] of Object.entries(request.headers)) parts.push('-H', quote(`${name}: ${value}`));
  if (request.body !== undefined) parts.push('--data-binary', quote(request.body));
  return parts.join(' ');
}

function pretty(text, type) {
  if (!type.includes('application/json')) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** Sends a request and shows the answer while it comes. */
async function call(request, answer, signal) {
  const began = performance.now();
  const status = make('span', { class: 'status' }, 'waiting …');
  const took = make('span', { class: 'quiet' });
  const body = make('pre', { tabindex: '0' });
  const headers = make('pre', {});
  answer.replaceChildren(make('h3', {}, 'Answer'), make('p', { role: 'status' }, status, ' ', took), body,
    make('details', {}, make('summary', { class: 'quiet' }, 'Headers'), headers));
  const time = () => `${Math.round(performance.now() - began)} ms`;
  try {
    const response = await fetch(request.url, { method: request.method, headers: request.headers, body: request.body, signal });
    status.textContent = `${response.status} ${response.statusText}`.trim();
    status.classList.add(response.ok ? 'good' : 'bad');
    took.textContent = time();
    headers.textContent = [...response.headers].map(([name, value]) => `${name}: ${value}`).join('\n');
    const type = response.headers.get('content-type') ?? '';
    const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    for (let next; reader && !(next = await reader.read()).done;) {
      text += next.value;
      body.textContent = text.slice(0, SHOWN);
    }
    body.textContent = text.length > SHOWN ? `${text.slice(0, SHOWN)}\n… ${text.length - SHOWN} more` : pretty(text, type);
    took.textContent = time();
  } catch (error) {
    status.textContent = signal.aborted ? `${status.textContent} (ended by you)` : `no answer: ${error.message}`;
    if (!signal.aborted) status.classList.add('bad');
    took.textContent = time();
  }
}

function form({ method, path, operation }, id) {
  const rows = (operation.parameters ?? []).map((it, at) => parameterRow(it, `${id}-p${at}`));
  const body = bodyForm(operation, id);
  const kinds = Object.keys(operation.responses?.['200']?.content ?? {});
  const accept = kinds.length > 1 ? make('select', { 'aria-label': 'Accept' }, ...kinds.map((it) => make('option', {}, it))) : null;
  const answer = make('div', { class: 'answer' });
  const send = make('button', { class: 'send', type: 'submit' }, 'Send');
  const stop = make('button', { type: 'button', hidden: true }, 'Stop');
  const copy = make('button', { type: 'button' }, 'Copy as curl');
  let control = null;
  const request = () => {
    const found = target(path, rows);
    if (found === null) return null;
    const { url, headers } = found;
    if (accept) headers.accept = accept.value;
    if (body) headers['content-type'] = body.type.value;
    const authorization = byId('authorization').value;
    if (authorization) headers.authorization = authorization;
    for (const { name, header, field } of keys()) {
      if (field.value !== '' && operation.security?.some((way) => name in way)) headers[header] = field.value;
    }
    return { method, url, headers, body: body && !['GET', 'HEAD'].includes(method) ? body.text.value : undefined };
  };
  const submit = async (event) => {
    event.preventDefault();
    const made = request();
    if (!made || control) return;
    control = new AbortController();
    [send.disabled, stop.hidden] = [true, false];
    await call(made, answer, control.signal);
    [send.disabled, stop.hidden, control] = [false, true, null];
  };
  stop.addEventListener('click', () => control?.abort());
  copy.addEventListener('click', async () => {
    const made = request();
    if (!made) return;
    const text = asCurl(made);
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = 'Copied';
      setTimeout(() => { copy.textContent = 'Copy as curl'; }, 1500);
    } catch {
      answer.replaceChildren(make('pre', { tabindex: '0' }, text));
    }
  });
  const it = make('form', { onsubmit: submit, novalidate: true },
    rows.length ? make('h3', {}, 'Parameters') : null, ...rows.map((it) => it.row),
    body ? make('h3', {}, 'Body') : null, body?.type, body?.text,
    make('div', { class: 'actions' }, send, stop, copy, accept, make('span', { class: 'quiet' }, make('kbd', {}, 'Ctrl'), ' ', make('kbd', {}, 'Enter'), ' sends')),
    answer);
  it.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) it.requestSubmit();
  });
  return it;
}

/** What a call has to show, in words. */
function needs(operation) {
  const schemes = api.components?.securitySchemes ?? {};
  const said = (name) => ({ http: 'a token in Authorization', apiKey: `a key in ${schemes[name]?.name}`, mutualTLS: 'a client certificate' })[schemes[name]?.type] ?? name;
  const ways = operation.security?.map((way) => Object.keys(way).map(said).join(' and ') || 'nothing');
  return ways?.length ? `Needs ${ways.join(', or ')}.` : null;
}

/** The schemes of keys, each with the field for it: made when a document first names it, and kept. */
function keys() {
  const schemes = Object.entries(api.components?.securitySchemes ?? {}).filter(([, it]) => it.type === 'apiKey' && it.in === 'header');
  return schemes.map(([name, { name: header }]) => {
    const id = `credential-${name}`;
    if (!byId(id)) {
      const field = make('input', { id, type: 'password', autocomplete: 'off', spellcheck: 'false' });
      byId('authorization').closest('header').append(make('label', { class: 'credential' }, header, field));
    }
    return { name, header, field: byId(id) };
  });
}

function details(entry, id) {
  const { operation } = entry;
  const codes = Object.entries(operation.responses ?? {}).map(([code, it]) => [code, resolve(it)]);
  return make('div', {},
    operation.description ? prose('p', { class: 'text' }, operation.description) : null,
    make('div', { class: 'grpc' }, `gRPC ${operation['x-weft-grpc'] ?? ''}`),
    needs(operation) && make('p', { class: 'quiet' }, needs(operation)),
    form(entry, id),
    operation.requestBody ? make('h3', {}, 'Takes') : null, ...contentOf(operation.requestBody?.content),
    make('h3', {}, 'Gives'), ...contentOf(operation.responses?.['200']?.content),
    make('details', {}, make('summary', { class: 'quiet' }, 'All answers'),
      make('dl', { class: 'codes' }, ...codes.flatMap(([code, it]) => [make('dt', {}, code), prose('dd', {}, it.description)]))));
}

function card(entry) {
  const { method, path, operation } = entry;
  const id = operation.operationId;
  const it = make('details', { id, class: operation.deprecated ? 'operation deprecated' : 'operation' },
    make('summary', {}, make('span', { class: `method ${method.toLowerCase()}` }, method), make('span', { class: 'path' }, path),
      prose('span', { class: 'quiet' }, operation.deprecated ? `deprecated. ${operation.summary ?? ''}` : operation.summary)));
  // Made when first opened: a mesh may have thousands.
  it.addEventListener('toggle', () => it.open && it.children.length === 1 && it.append(details(entry, id)));
  return it;
}

// --- the page

let shown = []; // per service: its section, its part of the contents, its operations

function show() {
  byId('title').textContent = api.info.title;
  document.title = api.info.title;
  byId('version').textContent = api.info.version;
  keys();
  const about = make('details', { class: 'about' }, make('summary', {}, 'What holds for every call'), prose('p', { class: 'text' }, api.info.description));
  const entries = all();
  shown = (api.tags ?? []).map((tag) => {
    const mine = entries.filter(({ operation }) => operation.tags?.includes(tag.name)).map((entry) => {
      const { method, path, operation } = entry;
      const link = make('li', {}, make('a', { href: `#${operation.operationId}` },
        make('span', { class: `method ${method.toLowerCase()}` }, method), make('span', {}, path)));
      const words = `${method} ${path} ${operation.operationId} ${operation.summary ?? ''}`.toLowerCase();
      return { card: card(entry), link, words };
    });
    const section = make('section', { 'aria-label': tag.name }, make('h2', {}, tag.name),
      tag.description ? prose('p', { class: 'text' }, tag.description) : null, ...mine.map((it) => it.card));
    const part = make('div', {}, make('h2', {}, tag.name), make('ul', {}, ...mine.map((it) => it.link)));
    return { section, part, mine };
  });
  byId('operations').replaceChildren(about, ...shown.map((it) => it.section), make('p', { id: 'none', class: 'quiet' }));
  byId('contents').replaceChildren(...shown.map((it) => it.part));
  filter();
}

/** Hides what does not match; what was typed into forms stays. */
function filter() {
  const words = byId('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
  let any = false;
  for (const { section, part, mine } of shown) {
    for (const it of mine) it.card.hidden = it.link.hidden = !words.every((word) => it.words.includes(word));
    section.hidden = part.hidden = mine.every((it) => it.card.hidden);
    any ||= !section.hidden;
  }
  byId('none').hidden = any;
  byId('none').textContent = words.length ? 'Nothing matches.' : 'No service has an API yet.';
}

function openNamed() {
  const named = byId(decodeURIComponent(location.hash.slice(1)));
  if (!named?.classList.contains('operation')) return;
  named.open = true;
  named.scrollIntoView();
  named.querySelector('summary').focus({ preventScroll: true });
}

async function read() {
  const response = await fetch('/openapi.json', { cache: 'no-cache' });
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).message ?? `status ${response.status}`);
  return { tag: response.headers.get('etag'), document: await response.json() };
}

async function load() {
  try {
    ({ tag, document: api } = await read());
    byId('news').hidden = true;
    show();
    openNamed();
  } catch (error) {
    byId('operations').replaceChildren(make('p', { id: 'state' }, `The API cannot be read: ${error.message} `,
      make('button', { type: 'button', onclick: load }, 'Again')));
  }
}

async function look() {
  if (document.hidden || !api) return;
  const now = await fetch('/openapi.json', { method: 'HEAD', cache: 'no-store' }).catch(() => null);
  if (now?.ok) byId('news').hidden = now.headers.get('etag') === tag;
}

byId('filter').addEventListener('input', () => api && filter());
byId('filter').addEventListener('keydown', (event) => {
  if (event.key !== 'Escape') return;
  byId('filter').value = '';
  if (api) filter();
});
byId('reload').addEventListener('click', load);
document.addEventListener('keydown', (event) => {
  const typing = event.target.closest?.('input, textarea, select');
  if (event.key !== '/' || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  byId('filter').focus();
});
window.addEventListener('hashchange', openNamed);
setInterval(look, LOOK_AGAIN);
await load();
