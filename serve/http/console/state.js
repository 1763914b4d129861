// What lives as long as the page and stands in no address: the shopper, what was tried out, the photos searched for.

export const shopper = { id: null, tried: [] };
const told = new EventTarget();

export function onShopper(listener, signal) {
  told.addEventListener("change", listener, { signal });
}

function tell() {
  told.dispatchEvent(new Event("change"));
}

/** Choose a shopper by id, null for one who is known by what is tried out only. */
export function choose(id) {
  Object.assign(shopper, { id, tried: [] });
  tell();
}

/** Try out that the shopper does something. Nothing is stored. */
export function tryOut(itemId, type) {
  shopper.tried.push({ item_id: itemId, type });
  tell();
}

export function takeBack(event) {
  shopper.tried = shopper.tried.filter((each) => each !== event);
  tell();
}

/** What a request says of the shopper. */
export const asShopper = () => ({ ...(shopper.id && { user_id: shopper.id }), history: shopper.tried });

export const photos = [];

/** Keep a photo; the number under which an address names it. */
export function keepPhoto(file) {
  return photos.push({ file, url: URL.createObjectURL(file) }) - 1;
}
