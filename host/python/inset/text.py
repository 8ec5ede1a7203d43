"""Text by the `tokenizers` package: prompts, answers, labels."""
import os

from . import errors


class Text:
    """A tokenizer that is opened when it is first asked for. source: a path to a tokenizer.json, a `tokenizers.Tokenizer`, one of transformers, or None."""

    def __init__(self, source):
        self._source, self._tokenizer = source, None

    @property
    def there(self):
        """Whether there is a tokenizer: results without one are labelled with ids."""
        if self._tokenizer is not None or (self._source is not None and not isinstance(self._source, (str, os.PathLike))):
            return True
        try:
            import tokenizers  # noqa: F401
        except ImportError:
            return False
        return self._source is not None and os.path.exists(self._source)

    @property
    def tokenizer(self):
        if self._tokenizer is None:
            source = self._source
            if source is None or isinstance(source, (str, os.PathLike)):
                if source is None or not os.path.exists(source):
                    raise errors.FileError(f"a text needs the model's tokenizer, and there is no {source or 'tokenizer.json'}; token ids work")
                try:
                    import tokenizers
                except ImportError:
                    raise errors.UsageError("a text needs the package tokenizers: pip install inset[text]; token ids work without") from None
                source = tokenizers.Tokenizer.from_file(str(source))
            self._tokenizer = getattr(source, "backend_tokenizer", source)
        return self._tokenizer

    def ids(self, text):
        return self.tokenizer.encode(text).ids

    def pieces(self, text):
        return [self.piece(i) for i in self.ids(text)]

    def piece(self, token):
        """What a token stands for, with its space; its id where there is no tokenizer."""
        if not self.there:
            return str(token)
        return self.tokenizer.decode([token], skip_special_tokens=False) or self.tokenizer.id_to_token(token) or str(token)

    def answer(self, answer):
        """Ids of an answer: an id, a word that is one token, or a list of these."""
        if isinstance(answer, str):
            ids = self.tokenizer.encode(answer, add_special_tokens=False).ids
            if len(ids) != 1:
                shown = " ".join(repr(self.piece(i)) for i in ids)
                hint = "" if answer.startswith(" ") else f"; most words have a space before them: {' ' + answer!r}"
                raise errors.ValueError(f"the answer {answer!r} is {len(ids)} tokens, {shown}: one token was expected{hint}")
            return ids
        if isinstance(answer, (list, tuple)):
            return [i for one in answer for i in self.answer(one)]
        return [int(answer)]
