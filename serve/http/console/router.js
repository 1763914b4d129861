// The address of the console: `#/view?parameter=value`. It holds no personal data and no key.

/** The view and the parameters of the address. */
export function current() {
  const [path, ...query] = location.hash.slice(1).split("?");
  return { view: path.slice(1) || "search", params: new URLSearchParams(query.join("?")) };
}

export function href(view, params) {
  const query = new URLSearchParams(params).toString();
  return `#/${view}${query && `?${query}`}`;
}

/** The address with some parameters changed: null removes one, a list repeats it. */
export function changed(changes, { view, params } = current()) {
  const next = new URLSearchParams(params);
  for (const [name, value] of Object.entries(changes)) {
    next.delete(name);
    for (const each of [value ?? []].flat()) next.append(name, each);
  }
  return href(view, next);
}

export function go(address) {
  location.hash = address;
}

/** The values of a parameter without one of them, or with it if it was not there. */
export function toggled(params, name, value) {
  const values = params.getAll(name);
  return values.includes(value) ? values.filter((each) => each !== value) : [...values, value];
}
