// State that lives as long as the page and is not in the address: the user, simulated events, searched photos.

export const user = { id: null, simulated: [] };
const changes = new EventTarget();

export function onUserChange(listener, signal) {
  changes.addEventListener("change", listener, { signal });
}

function notify() {
  changes.dispatchEvent(new Event("change"));
}

/** Choose a user by id; null for a new user, who has simulated events only. */
export function chooseUser(id) {
  Object.assign(user, { id, simulated: [] });
  notify();
}

/** Simulate an event of the user. Nothing is stored. */
export function simulate(itemId, type) {
  user.simulated.push({ item_id: itemId, type });
  notify();
}

export function undo(event) {
  user.simulated = user.simulated.filter((each) => each !== event);
  notify();
}

/** The fields of a request that describe the user. */
export const userFields = () => ({ ...(user.id && { user_id: user.id }), history: user.simulated });

export const photos = [];

/** Keep a photo; returns the number that stands for it in the address. */
export function keepPhoto(file) {
  return photos.push({ file, url: URL.createObjectURL(file) }) - 1;
}
