// What trials ended with: the measure against the rate, and across all axes. See charts.js.

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
