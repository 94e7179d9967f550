"""The paths of the reference page, and the file for each. PURE: `files` reads them when the page is opened."""

SWAGGER_UI = "5.35.0"
"""Version of the npm package swagger-ui-dist. `python -m scripts.vendor` copies its files here. Change it in
page/index.html too."""

PAGE = "/docs"
BUNDLE = f"{PAGE}/swagger-ui-{SWAGGER_UI}"
"""Files below this path never change, so browsers may cache them."""

FILES = {
    PAGE: "page/index.html",
    f"{PAGE}/page.css": "page/page.css",
    f"{PAGE}/page.js": "page/page.js",
    f"{BUNDLE}/swagger-ui.css": "swagger-ui/swagger-ui.css.gz",
    f"{BUNDLE}/swagger-ui-bundle.js": "swagger-ui/swagger-ui-bundle.js.gz",
    f"{BUNDLE}/swagger-ui-bundle.js.LICENSE.txt": "swagger-ui/swagger-ui-bundle.js.LICENSE.txt",
    f"{BUNDLE}/LICENSE": "swagger-ui/LICENSE",
    f"{BUNDLE}/NOTICE": "swagger-ui/NOTICE",
}
"""Path → file, relative to this folder. Large files are stored compressed."""
