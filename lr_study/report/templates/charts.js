// The charts of a page, drawn by BokehJS from the JSON in #charts-data.
// `shown` holds what the reader chose; every chart is drawn from it.
const data = JSON.parse(document.getElementById('charts-data').textContent);
const model = name => Bokeh.Models.get(name);
const dark = matchMedia('(prefers-color-scheme: dark)');
const mouse = matchMedia('(pointer: fine)');
const shown = {hidden: new Set(), studies: new Set(), setting: data.setting ?? null, smooth: 0, lit: null};
const charts = [];
const palette = () => (dark.matches ? 'dark' : 'light');

const isShown = trial =>
  !shown.hidden.has(trial.rate) && !shown.studies.has(trial.setting) && (shown.setting === null || trial.setting === shown.setting);
const isLit = (rate, trial, setting) => shown.lit === null || (
  (shown.lit.rate === undefined || shown.lit.rate === rate) &&
  (shown.lit.trial === undefined || shown.lit.trial === trial) &&
  (shown.lit.setting === undefined || setting === undefined || shown.lit.setting === setting));
const numbers = values => values.map(value => value ?? NaN);
// Of a comparison each study has a colour, else each rate.
const colourOf = (trial, scheme) =>
  (data.series ? data.series[trial.setting] : data.rates[trial.rate])[scheme];

function element(tag, parent, properties = {}, attributes = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  parent?.append(made);
  return made;
}

// The exponential mean that starts without a bias, as TensorBoard's.
function smoothed(values) {
  if (!shown.smooth) return values;
  let last = 0, weight = 0;
  return values.map(value => {
    if (!Number.isFinite(value)) return value;
    last = shown.smooth * last + (1 - shown.smooth) * value;
    weight = shown.smooth * weight + 1 - shown.smooth;
    return last / weight;
  });
}

// ---- What all charts have in common

function frame(options, scheme, size) {
  const paper = data.paper[scheme], ink = data.ink[scheme];
  const figure = Bokeh.Plotting.figure({
    toolbar_location: null, tools: [], background_fill_color: paper, border_fill_color: paper,
    outline_line_color: null, min_border_right: 16, ...size, ...options,
  });
  for (const axis of [...figure.below, ...figure.left]) {
    Object.assign(axis, {
      axis_label_text_color: ink, major_label_text_color: ink, axis_line_color: ink,
      major_tick_line_color: ink, minor_tick_line_color: null,
      axis_label_text_font_style: 'normal', axis_label_text_font_size: '12px',
      major_label_text_font_size: '12px',
    });
  }
  for (const grid of figure.center) Object.assign(grid, {grid_line_color: ink, grid_line_alpha: 0.12});
  figure.add_tools(new (model('WheelZoomTool'))({modifiers: {ctrl: true}}));
  if (mouse.matches) {
    const zoom = new (model('BoxZoomTool'))();
    figure.add_tools(zoom);
    figure.toolbar.active_drag = zoom;
  }
  return figure;
}

function level(figure, of, scheme, dimension = 'width') {
  if (!of) return;
  const ink = data.ink[scheme];
  figure.add_layout(new (model('Span'))({
    location: of.value, dimension, line_color: ink, line_dash: 'dotted', line_alpha: 0.8,
  }));
  const place = dimension === 'width' ? {x: 4, x_units: 'screen', y: of.value} : {x: of.value, y: 4, y_units: 'screen'};
  figure.add_layout(new (model('Label'))({
    ...place, text: of.name, text_font_size: '11px', text_color: ink, x_offset: 2, y_offset: 2,
    background_fill_color: data.paper[scheme], background_fill_alpha: 0.8,  // curves are below it
  }));
}

const PERCENT = {format: '0 %'};
function percentAxis(figure) {
  for (const axis of figure.left) axis.formatter = new (model('NumeralTickFormatter'))(PERCENT);
}

function rateAxis(figure) {
  const names = new Map(data.rates.map(rate => [rate.value, rate.name]));
  const apart = Math.ceil(data.rates.length / 8);  // as many as have room
  const some = data.rates.filter((_, place) => place % apart === 0);
  for (const axis of figure.below) {
    axis.ticker = new (model('FixedTicker'))({ticks: some.map(rate => rate.value)});
    axis.major_label_overrides = names;
  }
  for (const grid of figure.center) {
    if (grid.dimension === 0) grid.ticker = new (model('FixedTicker'))({ticks: some.map(rate => rate.value)});
  }
}

const valueFormat = share => (share ? '{0.0 %}' : '{%.4g}');
function hover(figure, renderers, tooltips, printf) {
  const formatters = Object.fromEntries(printf.map(name => [name, 'printf']));
  figure.add_tools(new (model('HoverTool'))({renderers, tooltips, formatters, line_policy: 'nearest'}));
}

// ---- Curves over epochs

class Curves {
  constructor(of) {
    this.of = of;
    this.name = of.name;
    this.title = of.title;
    this.logs = true;
    this.log = false;
  }

  // The lines of a rate that are shown, as columns.
  columns(rate) {
    const found = {xs: [], ys: [], name: [], trial: [], width: [], alpha: []};
    for (const line of this.of.lines) {
      const trial = data.trials[line.trial];
      if (trial.rate !== rate || !isShown(trial)) continue;
      const lit = isLit(rate, line.trial, trial.setting);
      found.xs.push(this.of.x[trial.setting].slice(0, line.y.length));
      found.ys.push(smoothed(numbers(line.y)));
      found.name.push(trial.name);
      found.trial.push(line.trial);
      found.width.push(shown.lit && lit ? 3 : 1.5);
      found.alpha.push(lit ? 0.9 : 0.15);
    }
    return found;
  }

  // Their points, where they are so few that a line alone may not be seen.
  points(rate) {
    const of = this.columns(rate), found = {x: [], y: [], alpha: []};
    if (this.few) {
      found.x = of.xs.flat();
      found.y = of.ys.flat();
      found.alpha = of.ys.flatMap((ys, place) => ys.map(() => of.alpha[place]));
    }
    return found;
  }

  range() {
    const all = this.of.lines.flatMap(line => numbers(line.y)).filter(Number.isFinite);
    const level = this.of.level?.value;
    let low = Math.min(...all), high = Math.max(...all);
    if (this.log) {
      const above = all.filter(value => value > 0);
      return {start: 0.8 * Math.min(...above), end: 1.25 * (level ? Math.min(high, 3 * level) : high)};
    }
    if (this.of.kind === 'share') return {start: -0.02, end: 1.02};
    if (this.of.kind === 'loss') {
      // Up to twice the loss of guessing: what breaks is far above. But not if that hides the rest.
      const ordered = all.sort((a, b) => a - b), count = ordered.length;
      const most = ordered[Math.floor(0.1 * count)] < 2 * level ? 2 * level : 1.1 * ordered[Math.floor(0.75 * count)];
      return {start: 0, end: Math.min(most, 1.05 * Math.max(high, level))};
    }
    const apart = high - low || Math.abs(high) || 1;
    return {start: low - 0.05 * apart, end: high + 0.05 * apart};
  }

  build(scheme, size) {
    const last = Math.max(...this.of.x.flat());
    const figure = frame({
      x_axis_label: 'epoch', y_axis_type: this.log ? 'log' : 'linear',
      x_range: new (model('Range1d'))({start: 0, end: last}),
      y_range: new (model('Range1d'))(this.range()),
    }, scheme, size);
    if (this.of.kind === 'share' && !this.log) percentAxis(figure);
    level(figure, this.of.level, scheme);
    this.sources = new Map();
    this.dots = new Map();
    this.few = Math.max(...this.of.lines.map(line => line.y.length)) <= 12;
    const renderers = [], items = [];
    for (const [number, rate] of data.rates.entries()) {
      const source = new Bokeh.ColumnDataSource({data: this.columns(number)});
      const renderer = figure.multi_line({field: 'xs'}, {field: 'ys'}, {
        source, line_color: rate[scheme], line_dash: {value: rate.dash.map(part => Math.round(2 * part))}, line_width: {field: 'width'}, line_alpha: {field: 'alpha'},
      });
      const dots = new Bokeh.ColumnDataSource({data: this.points(number)});
      figure.scatter({field: 'x'}, {field: 'y'}, {source: dots, size: 4, color: rate[scheme], alpha: {field: 'alpha'}});
      this.sources.set(number, source);
      this.dots.set(number, dots);
      renderers.push(renderer);
      if (source.data.xs.length) items.push([rate.name, [renderer]]);
      source.inspect.connect(() => inspected(source));
    }
    hover(figure, renderers, [
      ['trial', '@name'], ['epoch', '$snap_x{0.[00]}'], [this.title.toLowerCase(), `$snap_y${valueFormat(this.of.kind === 'share')}`],
    ], this.of.kind === 'share' ? [] : ['$snap_y']);
    return {figure, items};
  }

  update() {
    for (const [rate, source] of this.sources) {
      source.data = this.columns(rate);
      this.dots.get(rate).data = this.points(rate);
    }
  }

  rows() {
    return [['rate', 'seed', 'setting', 'epoch', this.name], ...this.of.lines.flatMap(line => {
      const trial = data.trials[line.trial], epochs = this.of.x[trial.setting];
      const named = [data.rates[trial.rate].name, trial.seed, data.settings[trial.setting]];
      return line.y.map((value, place) => [...named, epochs[place], value ?? '']);
    })];
  }
}

// ---- Curves and rows of tables highlight each other

function inspected(source) {
  const of = source.inspected, lines = [...of.multiline_indices.keys()];
  const place = lines.length ? Number(lines[0]) : of.indices[0];
  const trial = source.data.trial?.[place], rate = source.data.rate?.[place];
  if (trial !== undefined) light({trial, rate: data.trials[trial].rate}, false);
  else if (rate !== undefined) light({rate}, false);
  else if (shown.lit?.inspected === source) light(null, false);
  if (shown.lit) shown.lit.inspected = source;
}

function light(found, redraw = true) {
  const same = (a, b) => a?.trial === b?.trial && a?.rate === b?.rate && a?.setting === b?.setting;
  if (same(found, shown.lit)) return;
  shown.lit = found;
  for (const row of document.querySelectorAll('tr[data-rate], tr[data-trial]')) {
    const trial = row.dataset.trial === undefined ? undefined : Number(row.dataset.trial);
    const rate = trial === undefined ? rateOf(row) : data.trials[trial]?.rate;
    const matches = found?.rate !== undefined && (trial === undefined || found.trial === undefined || found.trial === trial) && found.rate === rate;
    row.classList.toggle('lit', Boolean(matches));
  }
  if (redraw) update();
}

const rateOf = row => data.rates.findIndex(rate => rate.name === row.dataset.rate);
const update = () => { for (const chart of charts) chart.update(); };

for (const row of document.querySelectorAll('tr[data-rate], tr[data-trial]')) {
  const trial = row.dataset.trial === undefined ? undefined : Number(row.dataset.trial);
  const setting = row.dataset.setting === undefined ? undefined : Number(row.dataset.setting);
  const rate = trial === undefined ? rateOf(row) : data.trials[trial]?.rate;
  row.addEventListener('pointerenter', () => light({trial, rate, setting}));
  row.addEventListener('pointerleave', () => light(null));
}
