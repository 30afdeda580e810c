// What the page remembers: conversations in IndexedDB (in memory where there is none), settings in localStorage.

const NAME = "fathom", TABLE = "chats";

let database = null;

export async function openChats() {
  try {
    database = await new Promise((done, failed) => {
      const opening = indexedDB.open(NAME, 1);
      opening.onupgradeneeded = () => opening.result.createObjectStore(TABLE, { keyPath: "id" });
      opening.onsuccess = () => done(opening.result);
      opening.onerror = () => failed(opening.error);
    });
    const all = await run("readonly", table => table.getAll());
    return all.sort((a, b) => b.at - a.at);
  } catch {
    database = null;
    return [];
  }
}

function run(mode, work) {
  return new Promise((done, failed) => {
    const transaction = database.transaction(TABLE, mode);
    const request = work(transaction.objectStore(TABLE));
    transaction.oncomplete = () => done(request.result);
    transaction.onerror = transaction.onabort = () => failed(transaction.error);
  });
}

export const saveChat = chat => (database ? run("readwrite", table => table.put(structuredClone(chat))) : Promise.resolve());
export const removeChat = id => (database ? run("readwrite", table => table.delete(id)) : Promise.resolve());
export const removeAllChats = () => (database ? run("readwrite", table => table.clear()) : Promise.resolve());

const DEFAULTS = {
  key: "", model: "", thinking: false, system: "", temperature: "", top_p: "", max_tokens: "", seed: "",
  theme: "auto", language: "",
};

export function loadSettings() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(NAME) ?? "{}") };
  } catch {
    return { ...DEFAULTS };
  }
}

export function saveSettings(settings) {
  try {
    localStorage.setItem(NAME, JSON.stringify(settings));
  } catch {
    // A browser that stores nothing still chats.
  }
}
