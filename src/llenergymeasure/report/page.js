"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const { figures, rows, settings, details } = data;
  const MISSING = "–";
  const SHOWN_AT_ONCE = 50;
  const MOST_BARS = 30;
  const MOST_WITH_RANGES = 60;
  const MOST_NUMBERED = 8;
  const MOST_WITH_INTERVALS = 200;
  const TIMES = { ttft: "Time to first token", tpot: "Time per output token", e2e: "End to end" };
  const state = { sort: null, down: false, all: false, kept: rows.map((_, at) => at), chosen: null };

  // Elements; text goes in as text, never as markup.
  function el(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "on") for (const [event, act] of Object.entries(value)) made.addEventListener(event, act);
      else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== ""));
    return made;
  }
  const fill = (at, ...children) => (typeof at === "string" ? $(at) : at).replaceChildren(...children);
  const options = (at, pairs) => fill(at, ...pairs.map(([value, text]) => el("option", { value }, text)));
  // Plotly takes a few tags for markup.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  // Labels of one study begin alike and end differently.
  const short = (text, most = 34) => (text.length > most ? `${text.slice(0, 9)}…${text.slice(10 - most)}` : text);
  const last = (key) => {
    const end = key.split(".").pop();
    return settings.filter((other) => other.split(".").pop() === end).length > 1 ? key : end;
  };
  const counted = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
  const shownValue = (value) =>
    value === null || value === undefined ? MISSING : typeof value === "object" ? JSON.stringify(value) : String(value);
  const figureAt = (key) => figures.findIndex((figure) => figure.key === key);
  const NOT_IN_TABLE = new Set(figureAt("requests") < 0 ? ["request", "total"] : ["total"]);
  const number = (row, at) => (at < 0 || row.values[at].length < 2 ? null : row.values[at][1]);
  const text = (row, at) => (row.values[at].length < 2 ? MISSING : row.values[at][0]);

  // Colours are those of the page, in the theme that is on.
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const palette = () => ["c1", "c2", "c3", "c4", "c5", "c6"].map(colour);
  const drawn = new Map();

  function axis(more = {}) {
    return {
      gridcolor: colour("line"), linecolor: colour("grey"), zerolinecolor: colour("line"), tickcolor: colour("grey"),
      automargin: true, fixedrange: false, title: { standoff: 8 }, ...more,
    };
  }

  function draw(id, traces, layout, caption, label) {
    const figure = $(id);
    if (!figure.firstChild) fill(figure, el("div", { class: "canvas", role: "img" }), el("figcaption"));
    const canvas = figure.firstChild;
    canvas.setAttribute("aria-label", label);
    fill(figure.lastChild, caption);
    const whole = {
      height: 380, margin: { l: 12, r: 12, t: 28, b: 12 }, showlegend: false,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("ink") },
      hoverlabel: { bgcolor: colour("paper"), bordercolor: colour("grey"), font: { color: colour("ink") }, align: "left" },
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", traceorder: "normal", font: { color: colour("ink") } },
      hovermode: "closest", dragmode: "zoom", ...layout,
    };
    drawn.set(id, canvas);
    return Plotly.react(canvas, traces, whole, { displayModeBar: false, responsive: true });
  }
  const heading = (text_) => ({ title: { text: text_, font: { size: 13 }, x: 0, xanchor: "left", xref: "container", y: 1, yanchor: "top", yref: "container", pad: { t: 6 } }, margin: { l: 12, r: 16, t: 62, b: 12 } });
  const reveal = (id, shown) => { $(id).hidden = !shown; return shown; };

  // What both ends of an interval are away from the value, in the unit of the axis.
  function errors(list, at, size, first) {
    const away = (row, end, sign) => {
      const value = row.values[at];
      return value[first] === undefined || value[first] === null ? 0 : Math.max(0, (sign * (value[end] - value[1])) / size);
    };
    return {
      type: "data", symmetric: false, width: 0,
      array: list.map((row) => away(row, first + 1, 1)), arrayminus: list.map((row) => away(row, first, -1)),
    };
  }
  // A long axis is logarithmic, with its ticks at 1, 2 and 5.
  function scaleOf(values) {
    if (!wide(values)) return { type: "linear" };
    const [least, most] = [Math.min(...values), Math.max(...values)];
    const ticks = [];
    for (let power = Math.floor(Math.log10(least)); power <= Math.log10(most); power += 1) ticks.push(...[1, 2, 5].map((one) => Number((one * 10 ** power).toPrecision(1))));
    const within = ticks.filter((one) => one >= least / 1.5 && one <= most * 1.5);
    const tickvals = within.length > 9 ? within.filter((one) => String(one / 10 ** Math.floor(Math.log10(one) + 1e-9)).startsWith("1")) : within;
    return { type: "log", tickvals, ticktext: tickvals.map((one) => one.toLocaleString("en", { maximumSignificantDigits: 3 })) };
  }
  const wide = (values) => Math.min(...values) > 0 && Math.max(...values) / Math.min(...values) > 20;
  const titled = (at) => `${figures[at].label}, ${figures[at].unit}`;
  const hover = (row, ...shown) =>
    `<b>${plain(row.label)}</b>${row.modelled ? "<br>energy estimated, not measured" : ""}` +
    shown.map((at) => `<br>${figures[at].label}: ${plain(text(row, at))}`).join("");

  function keptRows(...needed) {
    return state.kept.map((at) => rows[at]).filter((row) => row.valid && needed.every((at) => number(row, at) !== null));
  }

  // Those that no other one beats in both.
  function front(list, x, y) {
    const sign = figures[x].more ? -1 : 1;
    const found = [];
    let best = Infinity;
    const order = [...list].sort((a, b) => sign * (number(a, x) - number(b, x)) || number(a, y) - number(b, y));
    for (const row of order) if (number(row, y) < best) { best = number(row, y); found.push(row); }
    return found;
  }

  function tradeoff(id, x, y) {
    const list = keptRows(x, y);
    if (!list.length) return fill(id, el("p", { class: "quiet" }, "No valid experiment has both figures."));
    const [sx, sy] = [figures[x].size, figures[y].size];
    const at = (rows_) => ({ x: rows_.map((row) => number(row, x) / sx), y: rows_.map((row) => number(row, y) / sy) });
    // What a model of power estimates is not compared with what a sensor measured.
    const sensed = list.filter((row) => !row.modelled);
    const leaders = front(sensed.length ? sensed : list, x, y);
    const leading = new Set(leaders);
    const others = list.filter((row) => !leading.has(row));
    const numbered = leaders.length <= MOST_NUMBERED && list.length <= MOST_WITH_RANGES;
    const intervals = list.length <= MOST_WITH_INTERVALS;
    const ranges = list.length <= MOST_WITH_RANGES && list.some((row) => row.values[y].length > 4);
    const points = (members, shade) => ({
      ...at(members), mode: "markers", text: members.map((row) => hover(row, y, x)), hovertemplate: "%{text}<extra></extra>",
      marker: {
        size: list.length > 100 ? 6 : 9, color: shade, line: { width: 1.5, color: shade },
        symbol: members.map((row) => (row.modelled ? "diamond-open" : "circle")),
      },
      ...(intervals ? { error_x: { ...errors(members, x, sx, 2), color: shade, thickness: 1 }, error_y: { ...errors(members, y, sy, 2), color: shade, thickness: 1 } } : {}),
    });
    const traces = [
      ...(ranges ? [{ ...at(list), mode: "markers", marker: { size: 0.1, opacity: 0 }, hoverinfo: "skip", error_y: { ...errors(list, y, sy, 4), color: colour("line"), thickness: 5 } }] : []),
      points(others, colour("grey")),
      { ...at(leaders), mode: "lines", line: { color: colour("accent"), width: 1.5, dash: "dot" }, hoverinfo: "skip" },
      points(leaders, colour("accent")),
      ...(numbered ? [{ ...at(leaders), mode: "text", text: leaders.map((_, place) => ` ${place + 1}`), hoverinfo: "skip", textposition: "top right", cliponaxis: false, textfont: { color: colour("ink"), size: 12 } }] : []),
    ];
    const logs = [x, y].map((of) => scaleOf(list.map((row) => number(row, of) / figures[of].size)));
    const none = state.kept.length - list.length;
    const caption =
      `${leaders.length} of ${counted(list.length, "experiment")} ${leaders.length === 1 ? "is" : "are"} on the front (dotted): ` +
      `no other takes less energy and is ${figures[x].key === "accuracy" ? "right more often" : figures[x].more ? "faster" : "quicker"} too. ${intervals ? "Thin lines: 95 % intervals" : "Intervals: in the table"}` +
      `${ranges ? "; wide ones: systematic ranges" : ""}.` +
      `${list.some((row) => row.modelled) ? " Open diamonds: ≈ estimated, not measured." : ""}` +
      `${sensed.length && sensed.length < list.length ? " They are not compared with measured ones." : ""}` +
      `${none ? ` ${none} without both figures, or not valid, ${none === 1 ? "is" : "are"} left out.` : ""}` +
      `${numbered ? ` ${leaders.map((row, place) => `${place + 1}: ${row.label}`).join("; ")}.` : ""}`;
    draw(id, traces, {
      ...heading(`${figures[y].label} against ${figures[x].label.toLowerCase()}`), margin: { l: 12, r: 20, t: 40, b: 12 },
      xaxis: axis({ title: { text: titled(x) }, ...logs[0] }),
      yaxis: axis({ title: { text: titled(y) }, ...logs[1], rangemode: "tozero" }),
    }, caption, `${figures[y].label} against ${figures[x].label}. ${caption}`);
  }

  function tradeoffs() {
    const energies = figures.filter((figure) => figure.energy && rows.some((row) => number(row, figureAt(figure.key)) !== null));
    if (!reveal("tradeoff", rows.length > 1 && energies.length > 0 && figureAt("throughput") >= 0)) return;
    if (!$("tradeoff-y").options.length) {
      options("tradeoff-y", energies.map((figure) => [figure.key, figure.label]));
      options("tradeoff-x", ["ttft", "tpot"].filter((key) => figureAt(key) >= 0).map((key) => [key, TIMES[key]]));
    }
    const y = figureAt($("tradeoff-y").value);
    tradeoff("plot-throughput", figureAt("throughput"), y);
    if (reveal("plot-latency", $("tradeoff-x").value !== "")) tradeoff("plot-latency", figureAt($("tradeoff-x").value), y);
    const [right, correct] = [figureAt("accuracy"), figureAt("correct")];
    if (reveal("plot-accuracy", right >= 0 && correct >= 0)) tradeoff("plot-accuracy", right, correct);
  }

  function values(key) {
    const at = settings.indexOf(key);
    return [...new Set(rows.map((row) => row.varied[at]))].filter((value) => value !== null && value !== undefined);
  }

  function scaling() {
    const axes = settings.filter((key) => values(key).length > 1);
    if (!reveal("scaling", axes.length > 0 && figures.length > 0)) return;
    if (!$("scaling-x").options.length) {
      const rank = (key) => (/^load\.(concurrency|rate|speed)$/.test(key) ? 0 : /batch|concurrency|users/.test(key) ? 1 : values(key).every((value) => typeof value === "number") ? 2 : 3);
      options("scaling-x", [...axes].sort((a, b) => rank(a) - rank(b)).map((key) => [key, last(key)]));
      options("scaling-y", figures.map((figure) => [figure.key, figure.label]));
    }
    const x = settings.indexOf($("scaling-x").value);
    const y = figureAt($("scaling-y").value);
    const list = keptRows(y).filter((row) => row.varied[x] !== null && row.varied[x] !== undefined);
    const numeric = list.every((row) => typeof row.varied[x] === "number");
    const others = axes.map((key) => settings.indexOf(key)).filter((at) => at !== x);
    const groups = new Map();
    for (const row of list) {
      const name = others.map((at) => `${last(settings[at])}=${shownValue(row.varied[at])}`).join(" ");
      groups.set(name, [...(groups.get(name) ?? []), row]);
    }
    const few = groups.size <= 8;
    const intervals = list.length <= MOST_WITH_INTERVALS;
    const colours = palette();
    const dashes = ["solid", "dash", "dot"];
    const traces = [...groups].map(([name, members], at) => {
      const order = numeric ? [...members].sort((a, b) => a.varied[x] - b.varied[x]) : members;
      const own = few ? colours[at % colours.length] : colour("accent");
      return {
        name: plain(short(name, 60)), x: order.map((row) => (numeric ? row.varied[x] : plain(shownValue(row.varied[x])))),
        y: order.map((row) => number(row, y) / figures[y].size), mode: numeric && few ? "lines+markers" : "markers",
        line: { color: own, width: 2, dash: dashes[Math.floor(at / colours.length) % 3] },
        marker: { color: own, size: 8, symbol: order.map((row) => (row.modelled && figures[y].energy ? "diamond-open" : "circle")) },
        ...(intervals ? { error_y: { ...errors(order, y, figures[y].size, 2), color: own, thickness: 1 } } : {}),
        text: order.map((row) => hover(row, y)), hovertemplate: "%{text}<extra></extra>",
      };
    });
    const steps = numeric ? [...new Set(list.map((row) => row.varied[x]))].sort((a, b) => a - b) : [];
    const doubling = steps.length > 2 && steps[0] > 0 && steps.at(-1) / steps[0] >= 8;
    const caption = `${titled(y)}, along ${last(settings[x])}` +
      `${few && others.length ? `, a line for each of ${counted(groups.size, "combination")} of the other settings` : ""}. ${intervals ? "Thin lines: 95 % intervals" : "Intervals: in the table"}.` +
      `${list.some((row) => row.modelled) && figures[y].energy ? " Open diamonds: ≈ estimated, not measured." : ""}`;
    draw("plot-scaling", traces, {
      showlegend: few && groups.size > 1,
      xaxis: axis({
        title: { text: plain(last(settings[x])) },
        ...(numeric ? { type: doubling ? "log" : "linear" } : { type: "category" }),
        ...(steps.length && steps.length <= 12 ? { tickvals: steps, ticktext: steps.map(String) } : {}),
      }),
      yaxis: axis({ title: { text: titled(y) }, rangemode: "tozero" }),
    }, caption, caption);
  }

  // Horizontal bars, one place for each row.
  function places(list) {
    return {
      yaxis: axis({
        tickvals: list.map((_, at) => at), ticktext: list.map((row) => plain(short(row.label))),
        range: [list.length - 0.4, -0.6], showgrid: false, zeroline: false,
      }),
      height: 130 + 30 * Math.max(1, list.length),
    };
  }
  const barsOf = (having) => state.kept.filter(having).slice(0, MOST_BARS);
  const first = (of) => (of > MOST_BARS ? ` The first ${MOST_BARS} of ${of}, in the order of the table.` : "");

  function domains() {
    const has = (at) => details[at] && (details[at].readings ?? []).some((one) => one.joules !== null) && details[at].output_tokens > 0 && rows[at].valid;
    const ats = barsOf(has);
    if (!reveal("plot-domains", ats.length > 0)) return 0;
    const list = ats.map((at) => rows[at]);
    const y = figureAt("energy");
    const { size, unit } = y < 0 ? { size: 1, unit: "J/token" } : figures[y];
    const parts = new Map();
    ats.forEach((at, place) => {
      const seen = {};
      for (const one of details[at].readings) {
        const kind = one.domain.split(":")[0];
        const name = `${kind} ${(seen[kind] = (seen[kind] ?? -1) + 1)}`;
        const part = parts.get(name) ?? { y: [], x: [], text: [] };
        part.y.push(place);
        part.x.push((one.joules ?? 0) / details[at].output_tokens / size);
        part.text.push(`<b>${plain(list[place].label)}</b><br>${plain(one.domain)}${one.host ? ` on ${plain(one.host)}` : ""}` +
          `<br>${plain(one.text)} in all<br>${one.method === "modelled" ? "estimated by" : `${one.method}:`} ${plain(one.source)}`);
        parts.set(name, part);
      }
    });
    const colours = palette();
    const modelled = list.some((row) => row.modelled);
    const traces = [...parts].map(([name, part], at) => ({
      ...part, name, type: "bar", orientation: "h", textposition: "none", hovertemplate: "%{text}<extra></extra>",
      marker: { color: colours[at % colours.length], opacity: modelled ? 0.65 : 1 },
    }));
    const caption = `${modelled ? "≈ estimated, not measured. " : ""}Energy of all passes over output tokens, by what a sensor sees.${first(state.kept.filter(has).length)}`;
    draw("plot-domains", traces, {
      ...places(list), ...heading(`Energy per output token by domain${traces.length > 1 ? "" : `: ${traces[0].name.replace(/ 0$/, "")} alone`}`),
      barmode: "stack", showlegend: traces.length > 1, xaxis: axis({ title: { text: unit } }),
    }, caption, `Energy by domain. ${caption}`);
    return ats.length;
  }

  function phases() {
    const [prefill, decode] = [figureAt("prefill"), figureAt("decode")];
    const ats = barsOf((at) => rows[at].valid && (number(rows[at], prefill) !== null || number(rows[at], decode) !== null));
    if (!reveal("plot-phases", ats.length > 0)) return 0;
    const list = ats.map((at) => rows[at]);
    const { size, unit } = figures[decode < 0 ? prefill : decode];
    const traces = [[prefill, "Prefill, per prompt token", "c2"], [decode, "Decode, per output token", "c1"]]
      .filter(([at]) => at >= 0)
      .map(([at, name, shade]) => ({
        name, type: "bar", orientation: "h", y: list.map((_, place) => place), x: list.map((row) => (number(row, at) ?? 0) / size),
        error_x: { ...errors(list, at, size, 2), color: colour("quiet"), thickness: 1 },
        text: list.map((row) => hover(row, at)), textposition: "none", hovertemplate: "%{text}<extra></extra>", marker: { color: colour(shade) },
      }));
    const caption = `What a token costs while the prompt is read, and while the answer is written.` +
      `${list.some((row) => row.modelled) ? " ≈ estimated, not measured." : ""}${first(ats.length)}`;
    const layout = places(list);
    draw("plot-phases", traces, {
      ...layout, ...heading("Prefill against decode"), barmode: "group", showlegend: true, xaxis: axis({ title: { text: unit } }),
    }, caption, `Prefill and decode. ${caption}`);
    return ats.length;
  }

  const parts = () => { $("parts").hidden = false; reveal("parts", domains() + phases() > 0); };

  function percentiles() {
    const known = Object.keys(TIMES).filter((key) => details.some((one, at) => at < rows.length && one && one.latency && "p50" in one.latency[key]));
    if (!reveal("latency", rows.length > 1 && known.length > 0)) return;
    if (!$("latency-of").options.length) options("latency-of", known.map((key) => [key, TIMES[key]]));
    const key = $("latency-of").value;
    const has = (at) => details[at] && "p50" in details[at].latency[key];
    const ats = barsOf(has);
    const list = ats.map((at) => rows[at]);
    const shares = ["p50", "p90", "p95", "p99"].filter((share) => ats.some((at) => share in details[at].latency[key]));
    const ms = (at, share) => (details[at].latency[key][share] ?? NaN) * 1e3;
    const lines = { x: [], y: [], mode: "lines", line: { color: colour("grey"), width: 1 }, hoverinfo: "skip", showlegend: false };
    ats.forEach((at, place) => {
      const all = shares.map((share) => ms(at, share)).filter((one) => !Number.isNaN(one));
      lines.x.push(Math.min(...all), Math.max(...all), null);
      lines.y.push(place, place, null);
    });
    const symbols = { p50: "circle", p90: "line-ns-open", p95: "diamond", p99: "x-thin-open" };
    const traces = shares.map((share) => ({
      name: share === "p50" ? "median" : share, x: ats.map((at) => ms(at, share)), y: ats.map((_, place) => place), mode: "markers",
      marker: { size: 10, symbol: symbols[share], color: colour(share === "p50" ? "accent" : "ink"), line: { width: 2 } },
      text: list.map((row) => plain(row.label)), hovertemplate: "<b>%{text}</b><br>%{fullData.name}: %{x:.4g} ms<extra></extra>",
    }));
    const all = lines.x.filter((one) => one !== null);
    const caption = `${TIMES[key]} over the requests of all measured passes, from when a request ${[...new Set(ats.map((at) => details[at].since))].join(" or ")}.${first(state.kept.filter(has).length)}`;
    draw("plot-percentiles", [lines, ...traces], {
      ...places(list), showlegend: true, xaxis: axis({ title: { text: "ms" }, ...scaleOf(all), rangemode: "tozero" }),
    }, caption, caption);
  }

  // The table, its order and its filter.
  const columns = [
    ...(settings.length ? settings.map((key, at) => ({ head: last(key), of: (row) => row.varied[at], text: (row) => shownValue(row.varied[at]) }))
      : [{ head: "experiment", of: (row) => row.label, text: (row) => row.label }]),
    ...figures.map((figure, at) => ({ figure, head: figure.label, of: (row) => number(row, at), text: (row) => text(row, at), why: (row) => (row.values[at].length < 2 ? row.values[at][0] : null) }))
      .filter((column) => !NOT_IN_TABLE.has(column.figure.key)),
    { head: "runs", of: (row) => parseInt(row.runs, 10), text: (row) => row.runs },
    ...(rows.some((row) => row.outcome !== "done") ? [{ head: "state", of: (row) => row.outcome, text: (row) => row.outcome }] : []),
  ];
  const codes = [...new Set(rows.flatMap((row) => row.warnings))].filter((code) => code !== "energy_modelled").sort();
  if (codes.length) {
    const marks = (row) => codes.flatMap((code, at) => (row.warnings.includes(code) ? [`[${at + 1}]`] : [])).join(" ");
    columns.push({ head: "warnings", of: (row) => row.warnings.length, text: marks });
  }
  const haystacks = rows.map((row) => [row.label, row.outcome, ...row.varied.map(shownValue), ...row.warnings, row.modelled ? "estimated ≈" : "measured", row.valid ? "" : "invalid"].join(" ").toLowerCase());

  function holds(row, at, word) {
    const found = /^([\w.]+)(<=|>=|!=|<|>|=)(.+)$/.exec(word);
    if (found) {
      const [, name, sign, wanted] = found;
      const figure = figureAt(name);
      const setting = settings.findIndex((key) => key.toLowerCase() === name || last(key).toLowerCase() === name);
      if (figure >= 0 || setting >= 0) {
        const value = figure >= 0 ? number(row, figure) : row.varied[setting];
        if (value === null || value === undefined) return false;
        const [a, b] = [Number(value), Number(wanted)];
        const both = !Number.isNaN(a) && !Number.isNaN(b);
        const same = both ? a === b : shownValue(value).toLowerCase() === wanted;
        return { "<": both && a < b, ">": both && a > b, "<=": both && a <= b, ">=": both && a >= b, "=": same, "!=": !same }[sign];
      }
    }
    return haystacks[at].includes(word);
  }

  function arrange() {
    const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    state.kept = rows.map((_, at) => at).filter((at) => words.every((word) => holds(rows[at], at, word)));
    if (state.sort !== null) {
      const { of } = columns[state.sort];
      const sign = state.down ? -1 : 1;
      state.kept.sort((a, b) => {
        const [x, y] = [of(rows[a]), of(rows[b])];
        const [noX, noY] = [x === null || x === undefined, y === null || y === undefined];
        if (noX || noY) return noX - noY;
        return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
      });
    }
  }

  function table() {
    if (!reveal("experiments", rows.length > 0)) return;
    for (const id of ["find", "filter-help"]) reveal(id, rows.length > 1);
    const shown = state.all ? state.kept : state.kept.slice(0, SHOWN_AT_ONCE);
    fill($("table").tHead, el("tr", {}, ...columns.map((column, at) => {
      const turn = () => {
        [state.sort, state.down] = [at, state.sort === at ? !state.down : Boolean(column.figure && column.figure.more)];
        refresh();
        $("table").tHead.querySelectorAll("button")[at].focus();
      };
      const order = state.sort === at ? (state.down ? "descending" : "ascending") : null;
      return el("th", { scope: "col", class: column.figure ? "number" : null, "aria-sort": order }, el("button", { type: "button", on: { click: turn } }, column.head));
    })));
    fill($("table").tBodies[0], ...shown.map((at) => {
      const row = rows[at];
      return el("tr", { class: state.chosen === at ? "chosen" : null }, ...columns.map((column, place) => {
        const cell = column.text(row);
        if (place) return el("td", { class: column.figure ? "number" : null, title: column.why ? column.why(row) : null }, cell);
        const inside = details[at] ? el("button", { type: "button", class: "link", "aria-label": `Details of ${row.label}`, on: { click: () => { choose(at); $("one").scrollIntoView(); $("which").focus(); } } }, cell) : cell;
        return el("th", { scope: "row" }, inside);
      }));
    }));
    fill("shown", state.kept.length === rows.length ? counted(rows.length, "experiment") : `${state.kept.length.toLocaleString("en")} of ${counted(rows.length, "experiment")}`);
    if (reveal("more", shown.length < state.kept.length)) fill("more", `Show all ${state.kept.length.toLocaleString("en")} rows`);
  }

  // One result in detail.
  const facts = (list) => el("table", { class: "facts" }, el("tbody", {}, ...list.map(([label, value, note, strong]) =>
    el("tr", {}, el("th", { scope: "row" }, label), el("td", { class: strong ? "strong" : null }, value ?? ""), ...(note === undefined ? [] : [el("td", {}, note)])))));
  const folded = (title, inside) => el("details", {}, el("summary", {}, title), inside);
  const nameOf = (at) => (at < rows.length ? rows[at].label : details[at].label);

  function choose(at) {
    state.chosen = at;
    $("which").value = String(at);
    const one = details[at];
    fill("heading", one.heading);
    const groups = one.groups.map((group) => el("div", {}, el("h3", {}, group.title), facts(group.rows)));
    fill("groups", ...groups);
    const notes = [...(one.failures ?? []), ...one.notes];
    if (notes.length) $("groups").append(el("ul", { class: "quiet" }, ...notes.map((note) => el("li", {}, note))));
    const traces = one.power ?? [];
    options("run", traces.map((trace, place) => [place, trace.name]));
    reveal("run-label", traces.length > 1);
    power();
    distributions(one);
    budget(one);
    fill("more-of-one",
      ...(one.readings && one.readings.length ? [folded("Energy by domain and source", list(["domain", "host", "source", "method", "energy of all passes", "flags"], one.readings.map((r) => [r.domain, r.host, r.source, r.method, r.text, r.flags.join(", ")])))] : []),
      ...(one.settings ? [folded("Settings that differ from the defaults", facts(one.settings))] : []),
      ...(one.explanation ? [folded("What llem show --verbose adds", el("pre", {}, one.explanation.join("\n")))] : []),
      ...(one.arguments && one.arguments.length ? [folded("Arguments in force in the engine", facts(one.arguments))] : []));
    table();
  }

  const list = (heads, lines) => el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Table of ${heads[0]}` }, el("table", {},
    el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, ...lines.map((line) => el("tr", {}, ...line.map((cell) => el("td", {}, String(cell ?? ""))))))));

  const LANES = { "throttled by heat": 1, "throttled by the power limit": 1, "gap in the recording": 1 };
  function shadeOf(kind) {
    if (kind.startsWith("idle")) return colour("grey");
    return { pass: colour("c1"), window: colour("c1"), "pass that leads in": colour("c5"), "prefill pass": colour("c2"), silence: colour("c3"),
      loading: colour("c6"), "warm-up": colour("c4"), "throttled by heat": colour("error"), "throttled by the power limit": colour("warning"), "gap in the recording": colour("ink") }[kind];
  }

  function power() {
    const one = details[state.chosen];
    const trace = (one.power ?? [])[Number($("run").value) || 0];
    fill("windows");
    if (!trace || !trace.domains.length) {
      const had = drawn.get("plot-power");
      if (had) { Plotly.purge(had); drawn.delete("plot-power"); }
      return fill("plot-power", el("p", { class: "quiet" }, `No power over time: ${one.why_no_power ?? "no domain of it has power or energy"}.`));
    }
    const colours = palette();
    const top = Math.max(...trace.domains.flatMap((domain) => domain.high ?? domain.mean));
    const size = top < 1 ? 1e-3 : top >= 1e4 ? 1e3 : 1;
    const unit = { 0.001: "mW", 1: "W", 1000: "kW" }[size];
    const traces = [];
    trace.domains.forEach((domain, at) => {
      const x = domain.at ?? domain.mean.map((_, place) => domain.start + (place + 0.5) * domain.step);
      const shade = colours[at % colours.length];
      const name = `${domain.modelled ? "≈ " : ""}${plain(short(domain.name, 24))}`;
      const common = { x, mode: "lines", hoverinfo: "skip", showlegend: false, line: { width: 0, color: shade } };
      const scaled = (list_) => list_.map((one_) => one_ / size);
      if (domain.low) traces.push({ ...common, y: scaled(domain.low) }, { ...common, y: scaled(domain.high), fill: "tonexty", fillcolor: `${shade}33` });
      traces.push(
        { x, y: scaled(domain.mean), name, mode: "lines", line: { color: shade, width: 1.5, shape: domain.at ? "hvh" : "linear" }, hovertemplate: `%{y:.4g} ${unit} at %{x:.3f} s<extra>${name}</extra>` },
      );
    });
    const kinds = [...new Set(trace.marks.map(([kind]) => kind))];
    for (const kind of kinds) {
      const own = trace.marks.filter(([other]) => other === kind);
      traces.push({
        type: "bar", orientation: "h", name: kind.split(",")[0], legendgroup: kind.split(",")[0], yaxis: "y2",
        showlegend: kinds.find((other) => other.split(",")[0] === kind.split(",")[0]) === kind, base: own.map(([, start]) => start), x: own.map(([, start, end]) => end - start),
        y: own.map(() => LANES[kind] ?? 0), width: 0.8, text: own.map(([, start, end]) => `${kind}: ${start.toFixed(3)} to ${end.toFixed(3)} s`), textposition: "none",
        hovertemplate: "%{text}<extra></extra>", marker: { color: shadeOf(kind), line: { width: own.length > 60 ? 0 : 0.5, color: colour("paper") } },
      });
    }
    const second = trace.marks.some(([kind]) => kind in LANES);
    const thinned = trace.domains.find((domain) => domain.low);
    const samples = trace.domains.reduce((sum, domain) => sum + domain.samples, 0);
    const caption = `${one.modelled ? "≈ estimated from processor time by a model of power, not measured. " : ""}` +
      (thinned ? `Line: mean power in each of ${thinned.mean.length.toLocaleString("en")} equal stretches; band: the least and the most in it, from ${counted(samples, "sample")}.` : `Mean power between ${counted(samples, "sample")}.`) +
      " Below: what the run was doing.";
    draw("plot-power", traces, {
      height: 440, barmode: "overlay", showlegend: true,
      xaxis: axis({ title: { text: "seconds since the first sample" }, anchor: "y2", range: [0, trace.seconds] }),
      yaxis: axis({ title: { text: `power, ${unit}` }, domain: [second ? 0.26 : 0.18, 1], rangemode: "tozero" }),
      yaxis2: axis({ domain: [0, second ? 0.2 : 0.11], range: [-0.5, second ? 1.5 : 0.5], showticklabels: false, ticks: "", showgrid: false, zeroline: false, fixedrange: true }),
    }, caption, `Power over time of ${nameOf(state.chosen)}, ${trace.name}. ${caption}`);
    const most = 300;
    const lines = trace.marks.slice(0, most).map(([kind, start, end]) => [kind, start.toFixed(3), (end - start).toFixed(3)]);
    fill("windows", folded(`Windows of this run as a table${trace.marks.length > most ? `, the first ${most} of ${trace.marks.length}` : ""}`, list(["window", "start, s", "duration, s"], lines)));
  }

  function distributions(one) {
    const found = one.distributions ?? {};
    const known = Object.keys(TIMES).filter((key) => found[key]);
    if (!reveal("distributions", known.length > 0)) return;
    const [colours, dashes] = [palette(), ["solid", "dash", "dot"]];
    const traces = known.map((key, at) => ({
      name: TIMES[key], x: found[key].map((value) => value * 1e3), y: found[key].map((_, place) => (100 * place) / (found[key].length - 1)),
      mode: "lines", line: { color: colours[at], width: 2, dash: dashes[at] }, hovertemplate: "%{y:.0f} % of requests within %{x:.4g} ms<extra>%{fullData.name}</extra>",
    }));
    const caption = `Share of ${counted(found.requests, "answered request")} of the measured passes that took no longer.`;
    draw("plot-distributions", traces, {
      showlegend: true, height: 320, xaxis: axis({ title: { text: "ms" }, ...scaleOf(traces.flatMap((trace) => trace.x)) }),
      yaxis: axis({ title: { text: "% of requests" }, range: [0, 101] }),
    }, caption, `Distribution of latencies. ${caption}`);
  }

  function budget(one) {
    if (!reveal("budget", Boolean(one.budget))) return;
    const { terms, unit } = one.budget;
    const whole = terms.length - 1;
    const caption = `What each source of error may hide of the energy per output token at 95 %, below and above its value, in ${unit}.` +
      `${one.modelled ? " ≈ the energy is estimated, not measured." : ""}`;
    const bars = (at, sign, name) => ({
      name, type: "bar", orientation: "h", y: terms.map((_, place) => place), x: terms.map((term) => sign * term[at]), hovertemplate: "%{x:.3g}<extra></extra>",
      marker: { color: terms.map((_, place) => (place === whole ? colour("accent") : colour("grey"))) },
    });
    draw("plot-budget", [bars(1, -1, "below"), bars(2, 1, "above")], {
      ...places(terms.map((term) => ({ label: term[0] }))), barmode: "relative", xaxis: axis({ title: { text: unit }, zerolinecolor: colour("ink") }),
    }, caption, `Budget of uncertainty. ${caption}`);
    const yes = (value) => (value === null ? "" : value ? "yes" : "no");
    const figures_ = (value) => Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 });
    fill("terms", folded("Budget as a table", list(["source", `below, ${unit}`, `above, ${unit}`, "relative", "type", "common", "cancels in a ratio"],
      terms.map(([name, below, above, share, kind, common, cancels]) => [name, figures_(below), figures_(above), share, kind, yes(common), yes(cancels)]))));
  }

  // Everything that does not change.
  function frame() {
    fill(document.querySelector("h1"), data.title);
    fill(document.querySelector(".made"), `Made by ${data.made}. Works without a network; nothing in it calls home.`);
    fill(document.querySelector(".words"), ...data.words.map((line) => el("li", {}, line)));
    const names = { error: "Error", warning: "Warning", note: "Note" };
    const item = (alert) => el("li", { class: alert.level },
      el("p", {}, el("span", { class: "level" }, names[alert.level]), el("strong", {}, alert.title), alert.code ? ` (${alert.code})` : ""),
      el("p", {}, alert.text),
      el("p", { class: "quiet" }, alert.count && rows.length > 1 ? `${alert.count === rows.length && rows.some((row) => row.label === alert.of[0]) ? "all experiments" : `${alert.of.slice(0, 5).join("; ")}${alert.count > 5 ? ` and ${alert.count - 5} more` : ""}`}` : ""));
    const [open, more] = [data.alerts.slice(0, 6), data.alerts.slice(6)];
    fill(document.querySelector(".alerts"), ...open.map(item));
    if (more.length) $("warnings").append(folded(`${more.length} more`, el("ul", { class: "alerts" }, ...more.map(item))));
    reveal("warnings", data.alerts.length > 0);
    if (codes.length || rows.some((row) => row.modelled || !row.valid)) {
      const marks = [...(rows.some((row) => row.modelled) ? ["≈ estimated, not measured"] : []), ...(rows.some((row) => !row.valid) ? ["( ) not valid"] : []), ...codes.map((code, at) => `[${at + 1}] ${code}`)];
      fill("marks", marks.join("  ·  "));
    }
    const middle = (at) => rows.map((row) => number(row, at)).filter((value) => value !== null).sort((a, b) => a - b);
    const examples = figures.slice(0, 2).map((figure, at) => [`${figure.key}${figure.more ? ">" : "<"}`, middle(at)]).filter(([, all]) => all.length).map(([name, all]) => name + Number(all[all.length >> 1].toPrecision(2)));
    if (settings.length) examples.push(`${last(settings[0])}=${shownValue(rows[0].varied[0])}`);
    fill("filter-help", `Words that a row must hold, or conditions such as ${examples.join(", ")}, in J, s and tokens. `, `Names: ${figures.map((figure) => figure.key).join(", ")}${settings.length ? `, ${settings.map(last).join(", ")}` : ""}. The plots follow.`);
    fill("machines", ...data.environments.map((machine) => folded(`${machine.host || "unnamed host"}${data.environments.length > 1 ? `: ${counted(machine.of, "result")}` : ""}`, facts(machine.rows))));
    if (data.environments.length === 1) $("machines").firstChild.open = true;
    fill("thinned", ...data.thinned.map((line) => el("li", {}, line)));
    const known = details.flatMap((one, at) => (one ? [at] : []));
    if (reveal("one", known.length > 0)) {
      options("which", known.map((at) => [at, nameOf(at)]));
      reveal("which-label", known.length > 1);
      fill("h-one", known.length > 1 ? "One in detail" : "In detail");
    }
    return known[0];
  }

  const plots = [tradeoffs, scaling, parts, percentiles];
  const redraw = () => { for (const plot of plots) plot(); };
  let due = 0;
  function refresh() {
    arrange();
    table();
    clearTimeout(due);
    due = setTimeout(redraw, 120);
  }
  function theme(name) {
    document.documentElement.dataset.theme = name;
    fill("theme", name === "dark" ? "Light theme" : "Dark theme");
  }
  function recolour() {
    redraw();
    if (state.chosen !== null) { power(); distributions(details[state.chosen]); budget(details[state.chosen]); }
  }

  const asks = window.matchMedia("(prefers-color-scheme: dark)");
  theme(asks.matches ? "dark" : "light");
  asks.addEventListener("change", () => { theme(asks.matches ? "dark" : "light"); recolour(); });
  performance.mark("read");
  const start = frame();
  arrange();
  table();
  performance.mark("table");
  fill(document.querySelector("nav"), ...[...document.querySelectorAll("main > section")].map((section) =>
    el("a", { href: `#${section.id}` }, section.querySelector("h2").textContent)));
  $("theme").addEventListener("click", () => { theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"); recolour(); });
  $("filter").addEventListener("input", refresh);
  $("more").addEventListener("click", () => { state.all = true; table(); });
  $("which").addEventListener("change", () => choose(Number($("which").value)));
  $("run").addEventListener("change", power);
  for (const id of ["tradeoff-y", "tradeoff-x"]) $(id).addEventListener("change", tradeoffs);
  for (const id of ["scaling-x", "scaling-y"]) $(id).addEventListener("change", scaling);
  $("latency-of").addEventListener("change", percentiles);

  // On paper: light, and as wide as the page.
  let before = null;
  window.addEventListener("beforeprint", () => {
    before = document.documentElement.dataset.theme;
    theme("light");
    recolour();
    for (const canvas of drawn.values()) if (canvas.offsetParent) Plotly.relayout(canvas, { width: 660 });
  });
  window.addEventListener("afterprint", () => {
    theme(before ?? "light");
    recolour();
    for (const canvas of drawn.values()) Plotly.relayout(canvas, { width: null, autosize: true });
  });

  // The first plot first; the others while the reader reads.
  const queue = [...plots, () => { if (start !== undefined) choose(start); }, () => {
    fill(document.querySelector("nav"), ...[...document.querySelectorAll("main > section:not([hidden])")].map((section) =>
      el("a", { href: `#${section.id}` }, section.querySelector("h2").textContent)));
    document.documentElement.dataset.ready = "yes";
  }];
  const next = () => { const act = queue.shift(); if (act) { act(); performance.mark(act.name || "done"); setTimeout(next); } };
  next();
})();
