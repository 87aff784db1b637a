// What a reader does with the charts: choose, smooth, zoom, download. Drawn by charts.js.

// ---- Each chart with its tools

const button = (parent, text, label, act) => {
  const made = element('button', parent, {type: 'button', textContent: text}, {'aria-label': label});
  made.addEventListener('click', act);
  return made;
};

function mount(chart, parent) {
  const host = element('section', parent, {className: 'chart'}, {'aria-label': chart.title});
  element('p', host, {className: 'title', textContent: chart.title});
  const tools = element('div', host, {className: 'tools'}, {role: 'group', 'aria-label': `Tools of ${chart.title}`});
  chart.place = element('div', host, {className: 'plot'});
  if (chart.logs) {
    const log = button(tools, 'Log', `Log axis of ${chart.title}`, () => {
      chart.log = !chart.log;
      log.setAttribute('aria-pressed', chart.log);
      draw(chart);
    });
    log.setAttribute('aria-pressed', 'false');
  }
  button(tools, 'Reset', `Reset the zoom of ${chart.title}`, () => chart.view.reset());
  for (const kind of ['svg', 'png', 'csv']) {
    button(tools, kind.toUpperCase(), `Download ${chart.title} as ${kind.toUpperCase()}`, () => download(chart, kind));
  }
  charts.push(chart);
}

async function draw(chart) {
  chart.view?.remove();
  chart.place.replaceChildren();
  const {figure} = chart.build(palette(), {sizing_mode: 'stretch_width', height: chart.height ?? 260});
  chart.view = await Bokeh.Plotting.show(figure, chart.place);
}

async function download(chart, kind) {
  let blob;
  if (kind === 'csv') {
    const quoted = value => `"${String(value).replaceAll('"', '""')}"`;
    blob = new Blob([chart.rows().map(row => row.map(quoted).join(',')).join('\r\n') + '\r\n'], {type: 'text/csv'});
  } else {
    blob = await drawn(chart, kind);
  }
  const link = element('a', document.body, {href: URL.createObjectURL(blob), download: `${chart.name}.${kind}`});
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// A copy on light paper, with a legend and its own size.
async function drawn(chart, kind) {
  const copy = Object.assign(Object.create(Object.getPrototypeOf(chart)), chart);
  const host = element('div', document.body, {className: 'offscreen'});
  const {figure, items} = copy.build('light', {width: 760, height: 420, title: chart.title});
  if (items.length) {
    const legend = new (model('Legend'))({
      items: items.map(([name, renderers]) => new (model('LegendItem'))({label: {value: name}, renderers})),
      title: 'learning rate', border_line_color: null,
    });
    figure.add_layout(legend, 'right');
  }
  const view = await Bokeh.Plotting.show(figure, host);
  await new Promise(resolve => setTimeout(resolve, 100));  // until it is laid out
  const blob = await view.export(kind).to_blob();
  view.remove();
  host.remove();
  return blob;
}

// ---- The legend of all charts

// A key for each rate, or in a comparison for each study.
function buildLegend(legend) {
  const [field, hidden] = data.series ? ['setting', shown.studies] : ['rate', shown.hidden];
  const keys = data.series ? data.settings.map((name, number) => ({name, ...data.series[number]})) : data.rates;
  keys.forEach((of, number) => {
    const own = data.trials.filter(trial => trial[field] === number);
    const gone = own.filter(trial => trial.diverged).length;
    const words = gone ? (gone === own.length ? ' diverged' : ` ${gone} of ${own.length} diverged`) : '';
    const key = element('button', legend, {type: 'button', className: 'key'}, {'aria-pressed': 'true'});
    element('i', key, {}, {style: `background: light-dark(${of.light}, ${of.dark})`});
    key.append(of.name);
    if (words) element('small', key, {textContent: words});
    key.addEventListener('click', () => {
      const isHidden = hidden.delete(number) ? false : Boolean(hidden.add(number));
      key.setAttribute('aria-pressed', !isHidden);
      update();
    });
    for (const event of ['pointerenter', 'focus']) key.addEventListener(event, () => light({[field]: number}));
    for (const event of ['pointerleave', 'blur']) key.addEventListener(event, () => light(null));
  });
  button(legend, 'All', 'Show all', () => {
    hidden.clear();
    for (const key of legend.querySelectorAll('.key')) key.setAttribute('aria-pressed', 'true');
    update();
  });
  if (data.series) return;
  const label = element('label', legend, {textContent: 'Smoothing '});
  const smooth = element('input', label, {type: 'range', min: 0, max: 0.95, step: 0.05, value: 0});
  smooth.addEventListener('input', () => { shown.smooth = Number(smooth.value); update(); });
  if (data.settings.length > 1) {
    const choice = element('label', legend, {textContent: 'Setting '});
    const select = element('select', choice);
    element('option', select, {value: '', textContent: 'all'});
    data.settings.forEach((name, number) => element('option', select, {value: number, textContent: name}));
    select.value = shown.setting ?? '';
    select.addEventListener('change', () => {
      shown.setting = select.value === '' ? null : Number(select.value);
      update();
    });
  }
}

// ---- Start

const at = name => document.getElementById(name);
document.documentElement.classList.add('alive');
const known = data.trials.some(trial => trial.value !== null);
if (at('legend') && (known || data.charts.some(of => of.lines.length))) buildLegend(at('legend'));
for (const of of data.charts) if (of.lines.length) mount(new Curves(of), at('curves'));
if (at('by-rate') && data.by_rate.length) mount(new ByRate(), at('by-rate'));
if (at('parallel') && data.axes.length && known) {
  mount(Object.assign(new Parallel(), {height: 340}), at('parallel'));
}
Bokeh.logger.set_level('warn');
const drawAll = async () => { for (const chart of charts) await draw(chart); };
dark.addEventListener('change', drawAll);
drawAll();
