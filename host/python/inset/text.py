"""Text: prompts, answers, labels. The folder's tokenizer.json is read by inset itself; other tokenizers, and files of kinds that inset does not know (Unigram,
WordPiece), take the `tokenizers` package."""
import importlib.util
import os

from . import errors


class Text:
    """A tokenizer that is opened when it is first asked for.

    model: the extension's model, for its folder's tokenizer.json; None: it has no folder. given: a path to another tokenizer.json, a `tokenizers.Tokenizer`,
    one of transformers, or None.
    """

    def __init__(self, model, folder, given):
        self._model, self._path = model, os.path.join(folder, "tokenizer.json") if folder else None
        self._given, self._package, self._folder = given, None, folder
        if isinstance(given, (str, os.PathLike)):
            self._path = given
        self._own = None if folder and given is None else False    # does inset read it? None: not yet known

    @property
    def own(self):
        """Whether inset reads the file itself."""
        if self._own is None:
            self._own = self._is_read_by_inset()
        return self._own

    def _is_read_by_inset(self):
        if not (os.path.exists(self._path) or self._folder.endswith(".gguf")):
            return False
        try:
            self._model.tokens("", False)
        except errors.FileError:
            if importlib.util.find_spec("tokenizers") is None:
                raise
            return False
        return True

    @property
    def there(self):
        """Whether there is a tokenizer: results without one are labelled with ids."""
        try:
            return self.own or bool(self.package)
        except errors.InsetError:
            return False

    @property
    def package(self):
        """The tokenizer of the package."""
        if self._package is None:
            source = self._given
            if source is None or isinstance(source, (str, os.PathLike)):
                if self._path is None or not os.path.exists(self._path):
                    raise errors.FileError(f"a text needs the model's tokenizer, and there is no {self._path or 'tokenizer.json'}; token ids work")
                try:
                    import tokenizers
                except ImportError:
                    raise errors.UsageError("this tokenizer needs the package tokenizers: pip install inset[text]; token ids work without") from None
                source = tokenizers.Tokenizer.from_file(str(self._path))
            self._package = getattr(source, "backend_tokenizer", source)
        return self._package

    def ids(self, text, special=True):
        if not self.own:
            return self.package.encode(text, add_special_tokens=special).ids
        if "\0" in text:
            raise errors.ValueError(f"the text {text!r} has a NUL, and a text goes to inset without; token ids work")
        return self._model.tokens(text, special)

    def piece(self, token):
        """What a token stands for, with its space; its id where there is no tokenizer."""
        if not self.there:
            return str(token)
        if self.own:
            return self._model.token_text(int(token))
        return self.package.decode([token], skip_special_tokens=False) or self.package.id_to_token(token) or str(token)

    def answer(self, answer):
        """Ids of an answer: an id, a word that is one token, or a list of these."""
        if isinstance(answer, str):
            ids = self.ids(answer, special=False)
            if len(ids) != 1:
                shown = " ".join(repr(self.piece(i)) for i in ids)
                hint = ""
                if not answer.startswith(" "):
                    hint = f"; most words have a space before them: {' ' + answer!r}"
                elif len(self.ids(answer[1:], special=False)) == 1:
                    hint = f"; this tokenizer puts the space there by itself: {answer[1:]!r}"
                raise errors.ValueError(f"the answer {answer!r} is {len(ids)} tokens, {shown}: one token was expected{hint}")
            return ids
        if isinstance(answer, (list, tuple)):
            return [i for one in answer for i in self.answer(one)]
        return [int(answer)]
