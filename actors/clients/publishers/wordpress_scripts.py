"""The scripts that `wordpress.py` runs in WordPress's pages. They use only `wp.data`, `wp.blocks` and `fetch`.

Scripts that wait for the site take a time-out in milliseconds, because Playwright's `evaluate` has none.
"""

#: ``{method, url, nonce, body, milliseconds}`` → ``{status, text}``: a REST call with the session of the page.
REST = """async ({method, url, nonce, body, milliseconds}) => {
    const headers = {"X-WP-Nonce": nonce, "Accept": "application/json"};
    if (body) headers["Content-Type"] = "application/json";
    const answer = await fetch(url, {
        method, headers, body: body ? JSON.stringify(body) : undefined, credentials: "same-origin", cache: "no-store",
        signal: AbortSignal.timeout(milliseconds),
    });
    return {status: answer.status, text: await answer.text()};
}"""

#: ``blocks`` when the block editor is ready, ``classic`` for the classic editor; null before.
EDITOR_IS_READY = """() => {
    if (document.querySelector("form#post #titlediv") && !document.querySelector(".block-editor")) return "classic";
    const editor = window.wp && wp.data && wp.blocks && wp.data.select("core/editor");
    if (!editor || !editor.getCurrentPostId() || !wp.blocks.getBlockType("core/paragraph")) return null;
    if (editor.__unstableIsEditorReady && !editor.__unstableIsEditorReady()) return null;
    const button = document.querySelector(".editor-post-publish-panel__toggle, .editor-post-publish-button");
    return button ? "blocks" : null;
}"""

MAY_PUBLISH = """() => {
    const links = wp.data.select("core/editor").getCurrentPost()._links || {};
    return "wp:action-publish" in links;
}"""

GUIDE_IS_DUE = """() => {
    const kept = wp.data.select("core/preferences");
    if (kept) return !!kept.get("core/edit-post", "welcomeGuide") || !!kept.get("core", "welcomeGuide");
    const page = wp.data.select("core/edit-post");
    return !!(page && page.isFeatureActive("welcomeGuide"));
}"""

DISMISS_GUIDE = """() => {
    const kept = wp.data.dispatch("core/preferences");
    if (kept) {
        kept.set("core/edit-post", "welcomeGuide", false);
    } else {
        wp.data.dispatch("core/edit-post").toggleFeature("welcomeGuide");
    }
}"""

#: ``{title, html, slug, categories, tags, milliseconds}`` → ``{error, content, slug}``: fills the editor and saves the
#: post as a draft. Three things in plain text are escaped, because WordPress would interpret them: a ``[`` could begin
#: a shortcode and becomes a character reference; an address alone in a paragraph would become an embedded page and
#: becomes a link; ``<`` and ``&`` in the title would be markup.
SAVE_DRAFT = """async ({title, html, slug, categories, tags, milliseconds}) => {
    const {blocks, data} = wp;
    const editor = data.select("core/editor");
    const BRACKET = "\\uE000";
    const html_of = (value) => value && value.toHTMLString ? value.toHTMLString() : String(value || "");
    const escape_html = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
    const link = (url) => `<a href="${escape_html(url).replaceAll('"', "&quot;")}">${escape_html(url)}</a>`;
    const tame = (block) => {
        if (block.name === "core/embed") {
            return blocks.createBlock("core/paragraph", {content: link(block.attributes.url)});
        }
        if (block.name === "core/paragraph") {
            const text = html_of(block.attributes.content).trim();
            if (/^https?:\\/\\/[^\\s<>"]+$/i.test(text)) {
                const holder = document.createElement("textarea");
                holder.innerHTML = text;
                return blocks.createBlock("core/paragraph", {content: link(holder.value)});
            }
        }
        return blocks.createBlock(block.name, block.attributes, block.innerBlocks.map(tame));
    };
    const aligned = (tables, block) => {
        // The editor drops the cells' styles as it reads HTML; its own table has an attribute for the alignment.
        if (block.name === "core/table") {
            const rows = [...(tables.shift() || document.createElement("table")).rows];
            for (const part of ["head", "body", "foot"]) {
                for (const row of block.attributes[part] || []) {
                    const cells = [...(rows.shift() || {cells: []}).cells];
                    row.cells.forEach((cell, index) => {
                        const align = cells[index] && cells[index].style.textAlign;
                        if (align) cell.align = align;
                    });
                }
            }
        }
        block.innerBlocks.forEach((inner) => aligned(tables, inner));
        return block;
    };
    const tables = [...new DOMParser().parseFromString(html, "text/html").querySelectorAll("table")];
    const read = blocks.rawHandler({HTML: html.replaceAll("[", BRACKET)});
    const made = read.map((block) => aligned(tables, block)).map(tame);
    const content = blocks.serialize(made).replace(/<!--[^]*?-->|\\uE000/g, (found) =>
        found === BRACKET ? "&#91;" : found.replaceAll(BRACKET, "["));
    const edits = {title: escape_html(title), slug, tags, status: "draft"};
    if (categories.length) edits.categories = categories;
    if (content.includes("&#91;")) {
        // As blocks the editor would decode the references again; it saves this function's result instead.
        edits.content = () => content;
    } else {
        data.dispatch("core/block-editor").resetBlocks(made);
    }
    data.dispatch("core/editor").editPost(edits);
    const saved = data.dispatch("core/editor").savePost();
    const late = new Promise((resolve) => setTimeout(() => resolve("late"), milliseconds));
    const winner = await Promise.race([saved, late]);
    const notices = data.select("core/notices").getNotices().filter((each) => each.status === "error");
    let error = null;
    if (winner === "late") error = "it did not answer in time";
    else if (!editor.didPostSaveRequestSucceed()) error = notices.map((each) => each.content).join(" ") || "no reason";
    const post = editor.getCurrentPost();
    const raw = post.content && post.content.raw !== undefined ? post.content.raw : post.content;
    return {error, content: String(raw || ""), slug: post.slug};
}"""

#: The saved content → nothing: makes the publish request send the same content. The editor has parsed it again after
#: the draft was saved, and has lost the character references.
KEEP_CONTENT = """(content) => { wp.data.dispatch("core/editor").editPost({content: () => content}); }"""

#: ``{error, url, id}`` when the publish request was answered; null before.
PUBLISH_OUTCOME = """() => {
    const editor = wp.data.select("core/editor");
    if (editor.isSavingPost()) return null;
    const post = editor.getCurrentPost();
    if (editor.isCurrentPostPublished()) return {error: null, url: post.link, id: post.id};
    if (!editor.didPostSaveRequestFail()) return null;
    const notices = wp.data.select("core/notices").getNotices().filter((each) => each.status === "error");
    return {error: notices.map((each) => each.content).join(" ") || "no reason given", url: null, id: null};
}"""
