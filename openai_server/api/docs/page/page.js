"use strict";

// The URL of the folder that contains /docs. A proxy may add a prefix to the path.
const base = new URL(".", location.href);
const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");

function followTheme() {
  root.classList.toggle("dark-mode", dark.matches);
}

async function show() {
  const reference = document.getElementById("reference");
  const response = await fetch(new URL("openapi.json", base));
  if (!response.ok) throw new Error(`openapi.json: ${response.status} ${response.statusText}`);
  const spec = await response.json();
  spec.servers = [{ url: base.href.replace(/\/$/, "") }];
  document.getElementById("version").textContent = spec.info.version;
  reference.replaceChildren();
  SwaggerUIBundle({
    spec,
    domNode: reference,
    deepLinking: true,
    defaultModelsExpandDepth: -1,
    displayRequestDuration: true,
    tryItOutEnabled: true,
    validatorUrl: null,
  });
}

dark.addEventListener("change", followTheme);
followTheme();
show().catch((error) => {
  const note = document.createElement("p");
  note.className = "note";
  note.textContent = `The reference could not be loaded. ${error.message}`;
  document.getElementById("reference").replaceChildren(note);
});
