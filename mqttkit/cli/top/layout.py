"""The layout of the live view, as Textual's CSS."""

CSS = """
Screen { layout: vertical; }
#header { height: 3; }
#title { height: 1; }
#status { height: 1; }
#question { height: 1; }
#body { height: 1fr; layout: vertical; }
#left { height: 2fr; width: 100%; }
TreeView { height: 1fr; overflow-x: hidden; scrollbar-size-vertical: 1; }
DetailView { height: 1fr; width: 100%; border-top: solid $primary;
    overflow-x: hidden; scrollbar-size-vertical: 1; }
.-wide #body { layout: horizontal; }
.-wide #left { height: 100%; width: 3fr; }
.-wide DetailView { height: 100%; width: 2fr; border-top: none; border-left: solid $primary; padding-left: 1; }
Dialog, PublishDialog, RemoveDialog { align: center middle; }
.dialog { width: 72; max-width: 100%; height: auto; max-height: 100%; border: round $primary;
    padding: 0 1; background: $surface; }
.heading { text-style: bold; }
.row { height: 1; margin-top: 1; }
.row Select { width: 18; margin-right: 2; }
.row Button { margin-right: 2; }
.command { color: $text-muted; margin-top: 1; }
.note { margin-top: 1; }
.preview { height: auto; max-height: 10; border-left: solid $primary; padding-left: 1; }
"""
