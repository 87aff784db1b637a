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

// ---- The measure against the rate

class ByRate {
  constructor() {
    this.name = 'by_rate';
    this.title = `${data.measure.name[0].toUpperCase()}${data.measure.name.slice(1)} against the rate`;
    this.logs = false;
  }

  build(scheme, size) {
    const values = data.trials.map(trial => trial.value).filter(value => value !== null);
    const ends = data.by_rate.flatMap(of => [of.low, of.high]).filter(value => value !== null);
    let low = Math.min(...values, ...ends), high = Math.max(...values, ...ends);
    if (data.measure.share || !values.length) [low, high] = [0, 1];
    const apart = high - low || 1;
    this.below = low - 0.06 * apart;  // of what diverged
    const figure = frame({
      x_axis_type: 'log', x_axis_label: 'learning rate', y_axis_label: data.measure.name,
      y_range: new (model('Range1d'))({start: low - 0.1 * apart, end: high + 0.03 * apart}),
    }, scheme, size);
    rateAxis(figure);
    if (data.measure.share) percentAxis(figure);
    level(figure, data.chance, scheme);
    const field = name => ({field: name});
    const source = columns => new Bokeh.ColumnDataSource({data: columns});
    this.sources = {lines: source(this.lines(scheme)), means: source(this.means(scheme)), points: source(this.points(scheme)), gone: source(this.gone(scheme))};
    const {lines, means, points, gone} = this.sources;
    figure.multi_line(field('xs'), field('ys'), {source: lines, line_color: field('colour'), line_alpha: 0.6, line_width: 1});
    figure.segment(field('x'), field('low'), field('x'), field('high'), {
      source: means, line_color: field('colour'), line_width: 2, line_alpha: field('alpha'),
    });
    const renderers = [
      figure.scatter(field('x'), field('y'), {source: points, size: 5, color: field('colour'), alpha: field('faint')}),
      figure.scatter(field('x'), field('y'), {
        source: means, size: field('size'), fill_color: field('colour'), line_color: data.ink[scheme],
        line_width: field('edge'), alpha: field('alpha'),
      }),
      figure.scatter(field('x'), field('y'), {source: gone, size: 9, marker: 'x', line_width: 2, color: field('colour'), alpha: field('alpha')}),
    ];
    for (const of of [means, points, gone]) of.inspect.connect(() => inspected(of));
    hover(figure, renderers, [['', '@name'], [data.measure.name, '@shown']], []);
    return {figure, items: []};
  }

  shows(value) {
    if (value === null) return 'diverged';
    return data.measure.share ? `${(100 * value).toFixed(1)} %` : Number(value.toPrecision(3)).toString();
  }

  rates() {
    return data.by_rate.filter(isShown);
  }

  lines(scheme) {
    const found = {xs: [], ys: [], colour: []};
    for (const [setting] of data.settings.entries()) {
      const own = this.rates().filter(of => of.setting === setting && of.mean !== null);
      found.xs.push(own.map(of => data.rates[of.rate].value));
      found.ys.push(own.map(of => of.mean));
      found.colour.push(data.series ? data.series[setting][scheme] : data.ink[scheme]);
    }
    return found;
  }

  means(scheme) {
    const found = {x: [], y: [], low: [], high: [], colour: [], alpha: [], size: [], edge: [], name: [], shown: [], rate: []};
    for (const of of this.rates()) {
      if (of.mean === null) continue;
      found.x.push(data.rates[of.rate].value);
      found.y.push(of.mean);
      found.low.push(of.low ?? of.mean);
      found.high.push(of.high ?? of.mean);
      found.colour.push(colourOf(of, scheme));
      found.alpha.push(isLit(of.rate, undefined, of.setting) ? 1 : 0.25);
      found.size.push(of.best ? 12 : 8);
      found.edge.push(of.best ? 2 : 0);
      const title = data.settings[of.setting];
      found.name.push(`${data.rates[of.rate].name}${title ? `, ${title}` : ''}: mean`);
      const interval = of.low === null ? '' : ` (${this.shows(of.low)} to ${this.shows(of.high)})`;
      found.shown.push(this.shows(of.mean) + interval);
      found.rate.push(of.rate);
    }
    return found;
  }

  some(scheme, gone) {
    const found = {x: [], y: [], colour: [], alpha: [], faint: [], name: [], shown: [], trial: []};
    for (const [number, trial] of data.trials.entries()) {
      if (!isShown(trial) || (trial.value === null) !== gone) continue;
      const lit = isLit(trial.rate, number, trial.setting);
      found.x.push(data.rates[trial.rate].value);
      found.y.push(gone ? this.below : trial.value);
      found.colour.push(colourOf(trial, scheme));
      found.alpha.push(lit ? 1 : 0.25);
      found.faint.push(lit ? 0.6 : 0.15);
      found.name.push(trial.name);
      found.shown.push(this.shows(trial.value));
      found.trial.push(number);
    }
    return found;
  }

  points(scheme) { return this.some(scheme, false); }

  gone(scheme) { return this.some(scheme, true); }

  update() {
    for (const [name, source] of Object.entries(this.sources)) source.data = this[name](palette());
  }

  rows() {
    return [['rate', 'seed', 'setting', data.measure.name], ...data.trials.map(trial =>
      [data.rates[trial.rate].name, trial.seed, data.settings[trial.setting], trial.value ?? 'diverged'])];
  }
}

// ---- Parallel coordinates: a line for each trial, across rate, axes and measure

class Parallel {
  constructor() {
    this.name = 'parallel';
    this.title = `Rate, axes and ${data.measure.name}`;
    this.logs = false;
    const rates = data.rates.map(rate => rate.name).reverse();
    this.columns_ = [{name: 'learning rate', values: rates}, ...data.axes];
    const values = data.trials.map(trial => trial.value).filter(value => value !== null);
    this.low = Math.min(...values);
    this.high = Math.max(...values);
  }

  // Where a trial crosses each axis, from 0 at the bottom to 1; diverged ones end below.
  places(trial) {
    const at = (values, value) => (values.length < 2 ? 0.5 : values.indexOf(value) / (values.length - 1));
    const texts = [data.rates[trial.rate].name, ...trial.axes];
    const share = (trial.value - this.low) / (this.high - this.low || 1);
    const end = trial.value === null ? -0.12 : share;
    return [...texts.map((text, place) => at(this.columns_[place].values, text)), end];
  }

  columns() {
    const scheme = palette(), found = {xs: [], ys: [], colour: [], width: [], alpha: [], name: [], shown: [], trial: []};
    for (const [number, trial] of data.trials.entries()) {
      if (shown.hidden.has(trial.rate)) continue;
      const ys = this.places(trial), lit = isLit(trial.rate, number, trial.setting);
      const inSetting = shown.setting === null || shown.setting === trial.setting;
      found.xs.push(ys.map((_, place) => place));
      found.ys.push(ys);
      found.colour.push(data.rates[trial.rate][scheme]);
      found.width.push(shown.lit && lit ? 3 : 1.5);
      found.alpha.push(lit && inSetting ? 0.85 : 0.15);
      found.name.push(trial.name);
      found.shown.push(ByRate.prototype.shows(trial.value));
      found.trial.push(number);
    }
    return found;
  }

  build(scheme, size) {
    const last = this.columns_.length, ink = data.ink[scheme];
    const figure = frame({
      x_range: new (model('Range1d'))({start: -0.25, end: last + 0.35}),
      y_range: new (model('Range1d'))({start: -0.2, end: 1.1}),
    }, scheme, size);
    const names = [...this.columns_.map(column => column.name), data.measure.name];
    for (const axis of figure.left) axis.visible = false;
    for (const axis of figure.below) {
      axis.ticker = new (model('FixedTicker'))({ticks: names.map((_, place) => place)});
      axis.major_label_overrides = new Map(names.map((name, place) => [place, name.split('.').pop()]));
      axis.axis_line_color = null;
    }
    for (const grid of figure.center) grid.visible = false;
    for (const place of names.keys()) figure.segment([place], [0], [place], [1], {line_color: ink});
    const texts = this.columns_.flatMap((column, place) => column.values.map((text, number, all) =>
      ({x: place, y: all.length < 2 ? 0.5 : number / (all.length - 1), text})));
    const ends = [[0, this.low], [1, this.high]].map(([y, value]) => ({x: last, y, text: ByRate.prototype.shows(value)}));
    const diverged = data.trials.some(trial => trial.value === null) ? [{x: last, y: -0.12, text: 'diverged'}] : [];
    this.source = new Bokeh.ColumnDataSource({data: this.columns()});
    const renderer = figure.multi_line({field: 'xs'}, {field: 'ys'}, {
      source: this.source, line_color: {field: 'colour'}, line_width: {field: 'width'}, line_alpha: {field: 'alpha'},
    });
    for (const {x, y, text} of [...texts, ...ends, ...diverged]) {
      figure.add_layout(new (model('Label'))({
        x, y, text, x_offset: 5, text_baseline: 'middle', text_font_size: '11px', text_color: ink,
        background_fill_color: data.paper[scheme], background_fill_alpha: 0.7,
      }));
    }
    this.source.inspect.connect(() => inspected(this.source));
    hover(figure, [renderer], [['trial', '@name'], [data.measure.name, '@shown']], []);
    return {figure, items: []};
  }

  update() { this.source.data = this.columns(); }

  rows() {
    return [['rate', 'seed', ...data.axes.map(axis => axis.name), data.measure.name], ...data.trials.map(trial =>
      [data.rates[trial.rate].name, trial.seed, ...trial.axes, trial.value ?? 'diverged'])];
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
