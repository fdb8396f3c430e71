"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  // The state of the view is in the URL's fragment: "#anchor?stack=ipex&sort=t3.2d".
  const FACETS = { stack: "Stack", case: "Case", verdict: "Verdict" };
  const [, anchor, query] = /^#?([^?]*)\??(.*)$/.exec(location.hash);
  const stored = new URLSearchParams(query);
  const state = { anchor, filters: {} };
  for (const facet of Object.keys(FACETS)) state.filters[facet] = stored.get(facet) ?? "";
  const MAPS = ["sort", "hide", "only", "scale", "size", "zoom"];
  for (const key of MAPS) {
    state[key] = new Map();
    for (const item of stored.getAll(key)) {
      const at = item.indexOf(".");
      state[key].set(item.slice(0, at), item.slice(at + 1));
    }
  }
  const save = () => {
    const parameters = new URLSearchParams();
    for (const [facet, value] of Object.entries(state.filters)) if (value) parameters.set(facet, value);
    for (const key of MAPS) {
      for (const [name, value] of state[key]) if (value) parameters.append(key, `${name}.${value}`);
    }
    const text = parameters.toString();
    history.replaceState(null, "", text || state.anchor ? `#${state.anchor}${text ? `?${text}` : ""}` : location.pathname + location.search);
  };
  const jump = (name) => {
    const target = document.getElementById(name);
    if (!target) return;
    target.closest("details")?.setAttribute("open", "");
    target.scrollIntoView();
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (!link) return;
    event.preventDefault();
    state.anchor = link.getAttribute("href").slice(1);
    save();
    jump(state.anchor);
    const target = document.getElementById(state.anchor);
    if (target) {
      target.setAttribute("tabindex", "-1");
      target.focus({ preventScroll: true });
    }
  });

  const download = (content, type, name) => {
    const address = URL.createObjectURL(new Blob([content], { type }));
    element("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  };
  const button = (text, title, act) => {
    const made = element("button", { type: "button", ...(title && { title }) }, text);
    made.addEventListener("click", act);
    return made;
  };

  // Tables: sort, hide columns, download.
  const textOf = (cell) => {
    const copy = cell.cloneNode(true);
    all("sup", copy).forEach((note) => note.remove());
    return copy.textContent.trim();
  };
  const keyOf = (text) => {
    const found = /[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?/.exec(text);
    return found ? Number(found[0].replaceAll(",", "")) : text === "never" ? Infinity : NaN;
  };
  const compare = (one, other) => (Number.isNaN(one) ? 1 : 0) - (Number.isNaN(other) ? 1 : 0) || one - other;
  const quoted = (text) => {
    // A spreadsheet must not take a text for a formula.
    const number = /^[-+]?[\d.,]+(e[-+]?\d+)?( ?%)?$/.test(text) || text === "-";
    const safe = number ? text : text.replace(/(^|[;\t\r\n])(?=[\s"']*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20])/g, "$1'");
    return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  for (const box of all("main .table")) {
    const heads = all("thead th", box), body = box.querySelector("tbody"), rows = all("tr", body);
    const cells = rows.map((row) => [...row.cells]);
    const texts = cells.map((row) => row.map(textOf)), titles = heads.map((head) => head.textContent);
    const inCard = box.closest(".card");
    if (!inCard && rows.length > 1) {
      const sort = (column, order) => {
        const numeric = heads[column].classList.contains("n"), sign = order === "d" ? -1 : 1;
        const keys = texts.map((row) => (numeric ? keyOf(row[column]) : row[column]));
        const places = rows.map((_, place) => place);
        if (order) {
          places.sort((one, other) => {
            if (!numeric) return sign * keys[one].localeCompare(keys[other]);
            const bad = compare(keys[one], keys[other]);
            return Number.isNaN(keys[one]) || Number.isNaN(keys[other]) ? bad : sign * bad;
          });
        }
        body.append(...places.map((place) => rows[place]));
        heads.forEach((head, place) => {
          const mine = order && place === column;
          if (mine) head.setAttribute("aria-sort", order === "d" ? "descending" : "ascending");
          else head.removeAttribute("aria-sort");
        });
        state.sort.set(box.id, order ? `${column}${order}` : "");
      };
      heads.forEach((head, column) => {
        const button = element("button", { type: "button", class: "sort" }, ...head.childNodes);
        head.append(button);
        button.addEventListener("click", () => {
          const first = head.classList.contains("n") ? "d" : "a", second = first === "d" ? "a" : "d";
          const now = { ascending: "a", descending: "d" }[head.getAttribute("aria-sort")];
          sort(column, now === first ? second : now === second ? "" : first);
          save();
        });
      });
      const found = /^(\d+)([ad])$/.exec(state.sort.get(box.id) ?? "");
      if (found && found[1] < heads.length) sort(Number(found[1]), found[2]);
    }
    if (inCard) continue;

    const hidden = new Set((state.hide.get(box.id) ?? "").split("-").filter(Boolean).map(Number));
    const show = () => {
      [heads, ...cells].forEach((row) => row.forEach((cell, column) => (cell.hidden = hidden.has(column))));
    };
    show();
    const tools = element("div", { class: "tools" });
    if (heads.length > 2) {
      const list = element("div", { class: "choices" });
      titles.forEach((title, column) => {
        if (!column) return;
        const choice = element("input", { type: "checkbox" });
        choice.checked = !hidden.has(column);
        choice.addEventListener("change", () => {
          if (choice.checked) hidden.delete(column);
          else hidden.add(column);
          state.hide.set(box.id, [...hidden].join("-"));
          show();
          save();
        });
        list.append(element("label", {}, choice, title));
      });
      tools.append(element("details", { class: "columns" }, element("summary", {}, "Columns"), list));
    }
    const saveRows = () => {
      const columns = titles.map((_, column) => column).filter((column) => !hidden.has(column));
      const shown = all("tr", body).filter((row) => !row.hidden).map((row) => texts[rows.indexOf(row)]);
      const lines = [titles, ...shown].map((row) => columns.map((column) => quoted(row[column])).join(","));
      download(`${lines.join("\n")}\n`, "text/csv", `${box.closest("section")?.id ?? "table"}.csv`);
    };
    tools.append(button("CSV", "Download the rows and columns that are shown", saveRows));
    box.prepend(tools);
  }

  // One filter for all tables.
  const filtered = all("main tr").filter((row) => Object.keys(row.dataset).length);
  const bar = element("div", { class: "filters", role: "search", "aria-label": "Filter all tables" });
  const count = element("span", { class: "count", "aria-live": "polite" });
  const filter = () => {
    const wanted = Object.entries(state.filters).filter(([, value]) => value);
    let shown = 0;
    for (const row of filtered) {
      row.hidden = wanted.some(([facet, value]) => facet in row.dataset && row.dataset[facet] !== value);
      shown += row.hidden ? 0 : 1;
    }
    for (const box of all("main .table")) {
      const rows = all("tbody tr", box);
      box.classList.toggle("empty", rows.length > 0 && rows.every((row) => row.hidden));
    }
    for (const section of all("main section section")) {
      const boxes = all(".table", section);
      const empty = boxes.length > 0 && boxes.every((box) => box.classList.contains("empty"));
      section.classList.toggle("empty", empty && !section.querySelector("figure"));
    }
    count.textContent = wanted.length ? `${shown} of ${filtered.length} rows` : "";
    bar.classList.toggle("active", wanted.length > 0);
  };
  for (const [facet, title] of Object.entries(FACETS)) {
    const values = new Set(filtered.map((row) => row.dataset[facet]).filter(Boolean));
    if (!values.has(state.filters[facet])) state.filters[facet] = "";
    if (values.size < 2) continue;
    const select = element("select", {}, element("option", { value: "" }, "all"));
    for (const value of values) select.append(element("option", { value }, value));
    select.value = state.filters[facet];
    select.addEventListener("change", () => {
      state.filters[facet] = select.value;
      filter();
      save();
    });
    bar.append(element("label", {}, title, select));
  }
  if (bar.children.length) {
    const reset = () => {
      all("select", bar).forEach((select) => (select.value = ""));
      for (const facet of Object.keys(FACETS)) state.filters[facet] = "";
      filter();
      save();
    };
    bar.append(button("Reset", "", reset), count);
    all("main > section").find((section) => section.contains(filtered[0]))?.before(bar);
    filter();
  }

  // A plot as a file of its own, as it is shown: its colours are attributes, which every program knows.
  const PAINT = { fill: "fill", stroke: "stroke", "stroke-width": "stroke-width", "stroke-linejoin": "stroke-linejoin",
    "paint-order": "paint-order", opacity: "opacity", "text-decoration": "text-decoration-line" };
  const SVG = "http://www.w3.org/2000/svg";
  const standalone = (plot) => {
    const copy = plot.cloneNode(true), parts = all("*", plot), copies = all("*", copy);
    parts.forEach((part, place) => {
      const own = getComputedStyle(part), above = getComputedStyle(part.parentNode), drawn = copies[place];
      if (part.matches("[class], [data-series]")) {
        for (const [name, property] of Object.entries(PAINT)) {
          const value = own.getPropertyValue(property);
          if (value !== above.getPropertyValue(property) || part.hasAttribute(name)) drawn.setAttribute(name, value);
        }
      }
      if (part.dataset.tip) {
        const title = document.createElementNS(SVG, "title");
        title.textContent = part.dataset.tip;
        drawn.prepend(title);
      }
    });
    for (const part of [copy, ...copies]) {
      for (const { name } of [...part.attributes]) if (/^(class|role|tabindex|aria-pressed|data-.*)$/.test(name)) part.removeAttribute(name);
    }
    const paper = document.createElementNS(SVG, "rect");
    const paint = { width: "100%", height: "100%", fill: getComputedStyle(document.body).backgroundColor };
    for (const [name, value] of Object.entries(paint)) paper.setAttribute(name, value);
    copy.prepend(paper);
    return new XMLSerializer().serializeToString(copy);
  };
  const pixels = async (plot) => {
    const address = URL.createObjectURL(new Blob([standalone(plot)], { type: "image/svg+xml" })), image = new Image();
    image.src = address;
    await image.decode();
    URL.revokeObjectURL(address);
    const canvas = element("canvas", { width: 2 * image.width, height: 2 * image.height });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return new Promise((done) => canvas.toBlob(done));
  };

  // A panel of a plot, with another part of its axes: what is drawn moves, and the ticks are those of the part.
  const numbersOf = (panel, name) => panel.dataset[name].split(" ").map(Number);
  const scaleOf = ([start, end, low, high, log]) => {
    const to = log ? Math.log : Number, from = log ? Math.exp : Number, span = to(high) - to(low);
    return {
      place: (value) => start + ((to(value) - to(low)) / span) * (end - start),
      value: (place) => from(to(low) + ((place - start) / (end - start)) * span),
    };
  };
  // Smaller parts have no ticks that numbers can tell apart.
  const isPart = ([low, high]) => high - low > 1e-6 * Math.max(Math.abs(low), Math.abs(high)) && Number.isFinite(high - low);
  const ticksOf = (low, high, log) => {
    const values = [];
    if (log && high / low > 4) {
      for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
        for (const factor of [1, 2, 5]) values.push(factor * 10 ** power);
      }
    } else {
      const rough = (high - low) / 6, magnitude = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].find((each) => each * magnitude >= rough * 0.999) * magnitude;
      for (let count = Math.ceil(low / step); count * step <= high; count++) values.push(count * step);
    }
    return values.filter((value) => low <= value && value <= high).map((value) => Number(value.toPrecision(10)));
  };
  const whole = new WeakMap();
  let clips = 0;
  const showPart = (panel, part) => {
    if (!whole.has(panel)) whole.set(panel, [...panel.childNodes].map((child) => child.cloneNode(true)));
    panel.replaceChildren(...whole.get(panel).map((child) => child.cloneNode(true)));
    if (!part) return;
    all(".leader", panel).forEach((line) => line.remove());
    const [left, top, right, bottom] = numbersOf(panel, "area"), move = { x: Number, y: Number };
    for (const axis of ["x", "y"]) {
      if (!part[axis]) continue;
      const [low, high] = part[axis], [start, end, , , log] = numbersOf(panel, axis);
      const before = scaleOf(numbersOf(panel, axis)), now = scaleOf([start, end, low, high, log]);
      move[axis] = (place) => now.place(before.value(place));
      const upright = axis === "x", ends = upright ? ["x1", "x2"] : ["y1", "y2"], along = upright ? ["y1", "y2"] : ["x1", "x2"];
      const lines = all(".grid", panel).filter((line) => line.getAttribute(ends[0]) === line.getAttribute(ends[1]));
      const spans = new Map(lines.map((line) => [along.map((end) => line.getAttribute(end)).join(), line])), texts = all(`.t${axis}`, panel);
      const copied = (model, values) => {
        const copy = model.cloneNode(true);
        for (const [name, value] of Object.entries(values)) copy.setAttribute(name, value.toFixed(1));
        model.after(copy);
        return copy;
      };
      let last = -Infinity;
      for (const tick of ticksOf(low, high, log)) {
        const place = now.place(tick), text = tick >= 1000 ? Math.round(tick).toLocaleString("en-US") : String(tick);
        for (const line of spans.values()) copied(line, { [ends[0]]: place, [ends[1]]: place }).classList.add("new");
        const room = upright ? 7 * text.length + 8 : 14;
        if (!texts.length || Math.abs(place - last) < room) continue;
        last = place;
        const label = copied(texts[0], upright ? { x: place } : { y: place + 4 });
        label.textContent = text;
        label.classList.add("new");
      }
      [...lines, ...texts].forEach((each) => each.remove());
    }
    const id = `part-${clips++}`, clip = document.createElementNS(SVG, "clipPath"), frame = document.createElementNS(SVG, "rect");
    clip.id = id;
    const sides = { x: left, y: top - 4, width: right - left, height: bottom - top + 8 };
    for (const [name, value] of Object.entries(sides)) frame.setAttribute(name, value);
    clip.append(frame);
    const within = (x, y) => left - 1 <= x && x <= right + 1 && top - 6 <= y && y <= bottom + 1;
    for (const mark of all("line, rect, circle, polygon, path, text", panel)) {
      if (mark.matches(".new")) continue;
      const numbers = (name) => (mark.getAttribute(name).match(/-?[\d.]+/g) ?? []).map(Number);
      const [x, y] = ["x", "y"].map((axis) => ({ line: `${axis}1`, circle: `c${axis}` })[mark.tagName] ?? axis);
      const set = (name, value) => mark.setAttribute(name, value.toFixed(1)), get = (name) => numbers(name)[0];
      const outline = { polygon: "points", path: "d" }[mark.tagName];
      const points = outline ? numbers(outline) : [get(x), get(y)];
      if (mark.tagName === "line") points.push(get("x2"), get("y2"));
      if (mark.tagName === "rect") points.push(get("x") + get("width"), get("y") + get("height"));
      const xs = points.filter((_, place) => place % 2 === 0), ys = points.filter((_, place) => place % 2);
      const ownAxis = mark.matches(".axis") && ys.every((one) => Math.abs(one - bottom) < 1);
      if (ownAxis || !xs.every((one, place) => within(one, ys[place]))) continue;
      const moved = points.map((value, place) => (place % 2 ? move.y : move.x)(value));
      if (mark.tagName === "polygon") {
        // A marker keeps its shape.
        const middle = (values) => values.reduce((sum, value) => sum + value) / values.length, mx = middle(xs), my = middle(ys);
        if (within(move.x(mx), move.y(my))) mark.setAttribute("transform", `translate(${(move.x(mx) - mx).toFixed(1)} ${(move.y(my) - my).toFixed(1)})`);
        else mark.remove();
        continue;
      }
      if (outline) mark.setAttribute("d", `M${xs.map((_, place) => `${moved[2 * place].toFixed(1)} ${moved[2 * place + 1].toFixed(1)}`).join("L")}`);
      else if (mark.tagName === "rect") {
        set("x", moved[0]);
        set("y", moved[1]);
        set("width", moved[2] - moved[0]);
        set("height", moved[3] - moved[1]);
      } else if (mark.tagName === "line") ["x1", "y1", "x2", "y2"].forEach((name, place) => set(name, moved[place]));
      else {
        set(x, moved[0]);
        set(y, moved[1]);
        if (!within(...moved)) mark.remove();
        continue;
      }
      mark.setAttribute("clip-path", `url(#${id})`);
    }
    panel.prepend(clip);
  };

  // Plots: a click on the legend isolates a series; the pointer shows values; another scale, another size, a file.
  const tip = element("div", { class: "tip", "aria-hidden": "true" });
  document.body.append(tip);
  const showTip = (event) => {
    const mark = event.target.closest("[data-tip]");
    tip.classList.toggle("shown", mark !== null);
    if (!mark) return;
    tip.textContent = mark.dataset.tip;
    const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    const below = event.clientY + 18, above = event.clientY - tip.offsetHeight - 12;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${below + tip.offsetHeight < innerHeight ? below : above}px`;
  };
  // The place of the pointer in a panel, and the panel under the pointer.
  const placeIn = (panel, event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(panel.getScreenCTM().inverse());
  const panelUnder = (plot, event) =>
    all(".panel", plot).find((panel) => {
      const [left, top, right, bottom] = numbersOf(panel, "area"), { x, y } = placeIn(panel, event);
      return left <= x && x <= right && top <= y && y <= bottom;
    });
  for (const figure of all("figure")) {
    const box = figure.querySelector(".plot"), other = figure.querySelector("template"), name = box.firstChild.dataset.name;
    const scales = [[...box.childNodes], [...(other?.content.childNodes ?? [])]];
    const isolate = (series) => {
      const chosen = new Set(series.split("~").filter(Boolean));
      for (const plot of scales.flat()) {
        plot.classList.toggle("isolated", chosen.size > 0);
        all("[data-series]", plot).forEach((part) => part.classList.toggle("on", chosen.has(part.dataset.series)));
        all(".key", plot).forEach((key) => key.setAttribute("aria-pressed", chosen.has(key.dataset.series)));
      }
      state.only.set(name, series);
    };
    const toggle = (event) => {
      const before = (state.only.get(name) ?? "").split("~").filter(Boolean), mine = event.currentTarget.dataset.series;
      const others = before.filter((series) => series !== mine);
      const several = event.shiftKey || event.ctrlKey || event.metaKey;
      isolate((before.includes(mine) ? (several ? others : []) : several ? [...before, mine] : [mine]).join("~"));
      save();
    };
    for (const plot of scales.flat()) {
      const keys = all(".key", plot);
      if (keys.length) plot.setAttribute("role", "group");
      for (const key of keys) {
        key.setAttribute("role", "button");
        key.setAttribute("tabindex", "0");
        key.addEventListener("click", toggle);
        key.addEventListener("keydown", (event) => {
          if (event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault();
          toggle(event);
        });
      }
      for (const title of all("title", plot)) {
        if (title.parentNode === plot) continue;
        title.parentNode.dataset.tip = title.textContent;
        title.remove();
      }
      plot.addEventListener("pointermove", showTip);
      plot.addEventListener("pointerdown", showTip);
      plot.addEventListener("pointerleave", () => tip.classList.remove("shown"));
    }
    // "0_1_2~3_5_6_7_8" shows panel 0 from 1 to 2, and panel 3 from 5 to 6 and upwards from 7 to 8.
    const parts = new Map();
    for (const text of (state.zoom.get(name) ?? "").split("~").filter(Boolean)) {
      const [index, x0, x1, y0, y1] = text.split("_").map(Number);
      if (isPart([x0, x1])) parts.set(index, { x: [x0, x1], ...(isPart([y0, y1]) && { y: [y0, y1] }) });
    }
    const zoomed = () => {
      for (const plot of scales.flat()) {
        all(".panel", plot).forEach((panel, index) => {
          const part = parts.get(index), fits = part && (!panel.dataset.x.endsWith(" 1") || part.x[0] > 0);
          if (part || whole.has(panel)) showPart(panel, fits && Boolean(part.y) === "y" in panel.dataset ? part : null);
        });
      }
      isolate(state.only.get(name) ?? "");
      reset.hidden = !parts.size;
      const digits = (value) => Number(value.toPrecision(6));
      const texts = [...parts].map(([index, { x, y = [] }]) => [index, ...[...x, ...y].map(digits)].join("_"));
      state.zoom.set(name, texts.join("~"));
    };
    const reset = button("all", "Show the whole axes again", () => {
      parts.clear();
      zoomed();
      save();
    });
    const drag = (event) => {
      const plot = event.currentTarget, panel = panelUnder(plot, event);
      if (event.pointerType !== "mouse" || event.button || !panel || event.target.closest(".key")) return;
      event.preventDefault();
      const index = all(".panel", plot).indexOf(panel), from = placeIn(panel, event), start = parts.get(index) ?? {};
      const axes = ["x", "y"].filter((axis) => axis in panel.dataset);
      const scale = Object.fromEntries(axes.map((axis) => {
        const [begin, end, low, high, log] = numbersOf(panel, axis);
        return [axis, scaleOf([begin, end, ...(start[axis] ?? [low, high]), log])];
      }));
      const [left, top, right, bottom] = numbersOf(panel, "area"), sides = { x: [left, right], y: [top, bottom] };
      const box = document.createElementNS(SVG, "rect");
      box.setAttribute("class", "box");
      let to = from;
      const far = () => Math.hypot(to.x - from.x, to.y - from.y) > 6;
      const follow = (moving) => {
        to = placeIn(panel, moving);
        if (!far()) return;
        if (moving.shiftKey) {
          const shifted = (axis) => numbersOf(panel, axis).slice(0, 2).map((place) => scale[axis].value(place - to[axis] + from[axis]));
          parts.set(index, Object.fromEntries(axes.map((axis) => [axis, shifted(axis)])));
          zoomed();
          return;
        }
        for (const [axis, size] of [["x", "width"], ["y", "height"]]) {
          const [low, high] = sides[axis], ends = axes.includes(axis) ? [from[axis], to[axis]] : [low, high];
          const [one, other] = ends.map((end) => Math.min(high, Math.max(low, end))).sort((a, b) => a - b);
          box.setAttribute(axis, one);
          box.setAttribute(size, other - one);
        }
        panel.append(box);
      };
      const end = () => {
        plot.removeEventListener("pointermove", follow);
        removeEventListener("pointerup", end);
        const sized = { x: "width", y: "height" }, edges = (axis) => [0, Number(box.getAttribute(sized[axis]))].map((size) => Number(box.getAttribute(axis)) + size);
        const drawn = box.isConnected;
        box.remove();
        if (drawn && axes.every((axis) => Number(box.getAttribute(sized[axis])) > 3)) {
          const values = (axis) => edges(axis).map(scale[axis].value).sort((a, b) => a - b);
          if (axes.every((axis) => isPart(values(axis)))) parts.set(index, Object.fromEntries(axes.map((axis) => [axis, values(axis)])));
          zoomed();
        }
        save();
      };
      plot.addEventListener("pointermove", follow);
      addEventListener("pointerup", end);
    };
    for (const plot of scales.flat()) {
      plot.addEventListener("pointerdown", drag);
      plot.addEventListener("dblclick", (event) => {
        const panel = panelUnder(plot, event);
        if (!panel || !parts.delete(all(".panel", plot).indexOf(panel))) return;
        zoomed();
        save();
      });
    }
    zoomed();

    const tools = element("div", { class: "tools" });
    // A button that is on if the view's state has its value.
    const choice = (text, key, value, show) => {
      const set = (on) => {
        made.setAttribute("aria-pressed", on);
        state[key].set(name, on ? value : "");
        show(on);
      };
      const made = button(text, "", () => {
        set(state[key].get(name) !== value);
        save();
      });
      set(state[key].get(name) === value);
      tools.append(made);
    };
    if (other) choice(`${other.dataset.scale} scale`, "scale", other.dataset.scale, (on) => box.replaceChildren(...scales[on ? 1 : 0]));
    choice("larger", "size", "2", (on) => {
      box.classList.toggle("large", on);
      const scrolled = { role: "group", tabindex: "0", "aria-label": `Plot: ${box.firstChild.getAttribute("aria-label")}` };
      for (const [attribute, value] of Object.entries(scrolled)) {
        if (on) box.setAttribute(attribute, value);
        else box.removeAttribute(attribute);
      }
    });
    tools.append(reset);
    const shown = () => [...box.childNodes].find((plot) => getComputedStyle(plot).display !== "none");
    tools.append(
      button("SVG", "Save the plot as it is shown", () => download(standalone(shown()), "image/svg+xml", `${name}.svg`)),
      button("PNG", "Save the plot as it is shown", async () => download(await pixels(shown()), "image/png", `${name}.png`)),
    );
    box.before(tools);
  }

  // Paper shows what is folded on the screen.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = all("main details:not([open]):not(.columns)");
    folded.forEach((details) => (details.open = true));
  });
  addEventListener("afterprint", () => folded.forEach((details) => (details.open = false)));

  if ("IntersectionObserver" in window) {
    const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
    const observer = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) {
          if (!entry.isIntersecting) continue;
          links.forEach((link) => link.removeAttribute("aria-current"));
          links.get(entry.target.id)?.setAttribute("aria-current", "true");
        }
      },
      { rootMargin: "-10% 0px -80% 0px" },
    );
    all("main > section").forEach((section) => observer.observe(section));
  }
  if (query && anchor) jump(anchor);
})();
