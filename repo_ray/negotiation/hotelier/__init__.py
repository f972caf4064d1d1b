"""The simulated hotelier: what it hears, how it feels about it, what it does and says.

`hearing` reads the agent's reply, `mind` keeps trust, patience and goodwill, `rules` decides by
rule and `endpoint` by a language model; `negotiation.episodes` runs whole dialogues.
Its understanding of the agent's words is its own: nothing here is shared with rewards or the
evaluator, so that no score can be had by pleasing the hotelier's word lists alone.
"""
