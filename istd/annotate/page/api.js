// Requests to the server this page came from. The token stands behind '#' in the address.

const token = location.hash.slice(1);

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(path, options = {}) {
  const answer = await fetch(path, {
    ...options,
    headers: { "X-Istd-Token": token, ...options.headers },
    cache: "no-store",
  });
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({ error: answer.statusText }));
    throw new Refused(answer.status, told.error);
  }
  return answer;
}

export const loadState = async () => (await request("api/state")).json();

export const loadReference = async (name) =>
  (await request(`api/reference?${new URLSearchParams({ name })}`)).json();

export async function loadBitmap(kind, query) {
  const answer = await request(`api/${kind}?${new URLSearchParams(query)}`);
  return createImageBitmap(await answer.blob(), { colorSpaceConversion: "none" });
}

export async function savePoints(name, points, revision) {
  const answer = await request("api/points", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ name, points, revision }),
  });
  return answer.json();
}
