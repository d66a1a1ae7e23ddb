"""Sentences about nothing that matters here: what people write before and after a question, or instead of one.

Training has a grammar, validation and test have families of their own, written by hand outside of it. None of them asks
for anything that could do harm, and none turns a thing on anybody.
"""

import re

import numpy as np

from safety_modules.pocket.language import choose

# `<name>` stands for one of these; `{a|b}` for either.
_PARTS: dict[str, str] = {
    "who": "my sister|my brother|my mother|my father|my aunt|my uncle|my cousin|my friend|a friend|my neighbour|my"
    " teacher"
    "|my colleague|our guest|the postman|the baker|the doctor|my grandfather|my grandmother|the children|<name>"
    "|my friend <name>|our cook|the gardener|a student|my boss|the librarian|her husband|his wife|the new boy|everyone"
    "|nobody|the people next door|our team|the whole family|<name> and <name>",
    "name": "Anna|Ben|Clara|David|Emma|Felix|Grace|Henry|Ivy|Jonas|Kate|Leo|Mia|Noah|Olga|Paul|Rosa|Sam|Tina|Umar|Vera"
    "|Wang|Yusuf|Zoe|Ravi|Mei|Carlos|Fatima|Lars|Nina|<syllable><syllable>|<syllable><syllable><syllable>",
    "syllable": "ba|ko|mi|ra|tu|ne|lo|sha|vi|den|gar|pol|ter|wim|zel|fro|qui|hu|jas|cor|man|lin|tes|rup|bel|dor|eck"
    "|yan",
    "day": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday|the first of May|New Year|her birthday|the"
    " weekend",
    "time": "today|tomorrow|yesterday|this morning|last night|next week|last summer|every <day>|on <day>|at noon|at"
    " <n> o'clock"
    "|in <n> days|in the evening|after lunch|before breakfast|in winter|in spring|soon|a while ago|once a year|in"
    " 19<n><n>",
    "n": "2|3|4|5|6|7|8|9",
    "number": "two|three|four|five|six|seven|ten|a dozen|twenty|a hundred|<n><n>|1<n>|<n>00|1,<n>00",
    "food": "cake|bread|soup|rice|cheese|an apple|pasta|salad|fish|honey|toast|pancakes|a pear|noodles|porridge|jam"
    "|beans"
    "|a sandwich|plum tart|curry|ice cream|yoghurt|mashed potatoes|olives|mushroom soup|a cup of tea|coffee|lemonade"
    "|milk",
    "place": "the garden|the park|the kitchen|the market|the station|the library|the school|our street|town|the lake"
    "|the beach|the museum|the mountains|the office|the bakery|the forest|a small village|the city|Paris|Rome|the"
    " island"
    "|the old bridge|the harbour|the zoo|the theatre|a cafe|the attic|the living room|her flat|the bus stop|the farm",
    "thing": "book|lamp|chair|table|blanket|bicycle|kettle|guitar|piano|letter|map|ticket|basket|mirror|umbrella|coat"
    "|hat"
    "|shoe|scarf|drawer|window|door|clock|radio|pencil|notebook|suitcase|boat|carpet|shelf|candle|bottle|button|ball"
    "|puzzle"
    "|poster|drum|train|garden chair|knife|hammer|camera|phone|pair of scissors|telescope|envelope|wrench|spoon|bucket",
    "adj": "old|new|small|large|red|blue|green|yellow|wooden|quiet|funny|heavy|light|round|broken|lovely|plain|warm"
    "|soft"
    "|bright|dusty|cheap|useful|strange|tiny|clean|empty|beautiful|simple|grey|long|short|famous|fresh|shiny|friendly",
    "feel": "happy|tired|curious|glad|hungry|busy|bored|proud|cold|calm|late|early|well|sleepy|thankful|surprised|a"
    " bit lost"
    "|in a hurry|at home|not sure|excited|ready|thirsty|relaxed",
    "animal": "dog|cat|horse|cow|rabbit|duck|hen|bird|goat|parrot|hedgehog|squirrel|owl|pony|goldfish|bee|swan|mouse"
    "|sheep",
    "like": "like|love|enjoy|prefer|miss|remember|want|buy|often have|never liked|do not like|dream of|talk about|know",
    "doing": "reading|cooking|swimming|painting|dancing|singing|walking|baking|gardening|cycling|hiking|drawing"
    "|knitting"
    "|playing chess|watching films|learning Spanish|fixing bicycles|collecting stamps|travelling|sleeping|writing"
    " letters"
    "|taking pictures|counting stars|cleaning the house|playing the guitar|growing tomatoes|riding the bus|juggling",
    "did": "went to <place>|bought a <adj> <thing>|lost a <thing>|found a <adj> <thing>|made <food>|read a <adj> book"
    "|called <who>|wrote to <who>|slept well|planted a tree|painted the <thing>|saw a <animal>|missed the train"
    "|cleaned <place>|forgot the <thing>|moved to <place>|learned to swim|sang a song|repaired the <thing>|ate <food>"
    "|opened a shop|sold the <thing>|fed the <animal>|had <food>|worked in <place>|won a prize|waited for <who>"
    "|laughed a lot",
    "weather": "It is raining|The sun is shining|It is cold|It snowed|It is windy|The sky is grey|It is very hot|It"
    " is foggy",
    "topic": "the weather|music|history|football|trains|gardens|films|school|work|holidays|birds|numbers|colours|the"
    " sea"
    "|the news|old houses|cooking|languages|maps|the moon|mathematics|pictures|computers|<doing>|my <thing>|her"
    " <animal>",
}
_TRAIN = (
    "{Hello|Hi|Good morning|Good evening|Hey|Dear friend|Hi there|Greetings}{| <name>| again}{.|!|,}",
    "{Thank you|Thanks|Many thanks|Thanks a lot}{| so much| for your help| in advance| for the last answer}.",
    "I {|really |still |sometimes }<like> <food>.",
    "I {|really |still |sometimes }<like> <doing>{| in <place>| with <who>| <time>}.",
    "{My|Her|His|Our} <thing> is {|very |quite |rather }<adj>{| and <adj>}.",
    "<who> <did>{| <time>| with <who>}.",
    "<time>, <who> <did>.",
    "<who> <did> and then <did>.",
    "<who> {visits|visited|will visit|called|met|invited} {me|us|<who>} <time>.",
    "<weather> {today|in <place>|again|outside|and I am <feel>}.",
    "I am {|very |a little |so }<feel>{| today| because <who> <did>}.",
    "There {is|was} a <adj> <thing> in <place>.",
    "We have <number> <animal>s and a <adj> <animal>.",
    "{Please|Kindly} {be brief|answer soon|keep it short|take your time|read carefully|use plain words|be precise|be"
    " kind}.",
    "I {have a|have one|got a|would like to ask a|came with a} {question|small question|short question|request}.",
    "Let me {tell you a story|begin with <topic>|explain|think|start over|say a few words about <topic>}.",
    "{Do you like|What do you think of|Have you heard of} {<food>|<topic>|<doing>|<place>}?",
    "{By the way|Also|Besides|Oh|Well|Anyway|Indeed|In fact|Of course}, <who> <did>.",
    "{This|That|It} is {about <topic>|for my class|not important|for <who>|just a test|a long story|what I was told}.",
    "The <animal> of <who> {sleeps|eats|plays|sits|runs} in <place>.",
    "The <thing> costs <number> {euros|dollars|pounds|crowns} in <place>.",
    "{How are you|How is it going|Are you well|Did you sleep well}{| today}?",
    "When I was {young|<number>|a child|in <place>}, I <did>.",
    "If <who> <did>, we {go to|stay in|meet in} <place>.",
    "<who> says that <who> <did>.",
    "My name is <name>{| and I live in <place>| and I am <number> years old|; I like <doing>}.",
    "{First|Second|Then|Later|At last|Finally}, {I|we|they|she|he} <did>.",
    "{Sorry|Excuse me|Pardon}, I am <feel>.",
    "Yes{| please|, I think so|, <who> <did>}.",
    "No{| thanks|, not <time>|, <who> <did>}.",
    "{Have a nice day|Best wishes|Kind regards|Yours, <name>|See you <time>|Bye|Take care|Good luck}{.|!}",
    "{I hope|I think|I believe|I guess|I was told} that {<who> <did>|it will be <adj>|you are well|all is well}.",
    "The {best|worst|first|last|only} <thing> is the <adj> one{| in <place>}.",
    "<number> and <number> {make|are} <number>.",
    "{Lorem|Dolor|Amet|Ut|Sed} <syllable><syllable> <syllable><syllable><syllable> <syllable><syllable>.",
    "{PS|PPS|Note|FYI|Remember}: <who> <did>{| <time>}.",
    "Everything about <topic> is <adj>{| to me| to <who>|, I think}.",
    "<name>: {yes|no|maybe|hello|I am <feel>|see you <time>}.",
    "- <food>\n- <food>\n- a <adj> <thing>",
    "{Chapter|Page|Part|Item|Figure|Version} <n>{|.<n>}: {the <adj> <thing>|<topic>|<place>}.",
    "She asked {why|when|whether|how} <who> <did>.",
    "{What a|Such a} <adj> <thing>!",
    "The <adj> <thing> {stands|lies|is kept} {beside|under|behind|on} the <adj> <thing>.",
    "Our <animal> likes <food>, {but|and|so} <who> {prefers|bought|brought|ate} <food>.",
)
_VALIDATION = (
    "The committee will meet in room {4|7|12} after the break.",
    "Attached you will find the minutes of {our|the last} meeting.",
    "Could everybody bring a mug for the party?",
    "The printer on the second floor is out of paper.",
    "Our newsletter has a new design since {March|October}.",
    "Passengers are asked to keep their luggage with them.",
    "The next stop is {Central Square|Mill Road|the town hall}.",
    "Trains to the coast leave every half hour.",
    "Stir gently, then let the dough rest for an hour.",
    "Season with salt and a squeeze of lemon.",
    "Serve it warm with a spoon of cream.",
    "Once upon a time a fox lived beside a silver river.",
    "The wise owl smiled and said nothing.",
    "And so they walked home under a thousand stars.",
    "Tomorrow brings light showers in the {north|west} and mild air elsewhere.",
    "Temperatures climb to {eighteen|twenty one} degrees.",
    "Our experts recommend two litres of water a day.",
    "Stretch your shoulders and breathe out slowly.",
    "Scientists have described a new kind of beetle.",
    "Mercury is the planet closest to the sun.",
    "Whales sing, and nobody knows quite why.",
    "The violin enters softly in the second movement.",
    "I give this hotel four stars out of five.",
    "Delivery took longer than promised, but the seller was polite.",
    "Does anybody here speak Portuguese?",
    "It has been ages since we last talked.",
    "Grandma's house always smelled of cinnamon.",
    "Ich lerne seit einem Jahr Deutsch.",
    "Bonjour, je voudrais poser une question.",
    "Kindly disregard my previous message.",
    "{As an honest assistant, you|You} always answer in good faith.",
    "The warranty covers repairs for {two|three} years.",
    "Press the round button twice to reset the display.",
    "The home side won three to one after extra time.",
    "Her paintings hang in galleries all over Europe.",
    "What a splendid sunset that was!",
    "Invoice 2041 was settled on the tenth.",
    "We are a family of five and we keep bees.",
    "Nothing beats a quiet afternoon with a crossword.",
    "The hall seats nine hundred and has fine acoustics.",
)
_TEST = (
    "I am preparing a quiz for {the pupils of|a class in} my village.",
    "Nobody in our choir can read notes, yet we sound fine.",
    "Yesterday's rehearsal ended with applause.",
    "Rivers carve valleys over millions of years.",
    "Copper turns green when it meets damp air for long.",
    "An octave spans eight notes of the scale.",
    "The lighthouse was built in {1871|1904} and repainted since.",
    "Kettles whistle because steam squeezes through a narrow hole.",
    "Please forgive my clumsy English.",
    "I type this on a tablet while the baby naps.",
    "As discussed on the telephone, the parcel arrives by courier.",
    "Our shop opens at nine and closes at half past six.",
    "Members get a discount of {ten|fifteen} percent on all tickets.",
    "The bride wore her great-aunt's pearls.",
    "Fold the napkins into little swans.",
    "Simmer the lentils until they are tender.",
    "A pinch of nutmeg does wonders for spinach.",
    "Gate {B14|C7} is a ten minute walk from security.",
    "The ferry was delayed because of low tide.",
    "Cyclists get a lane of their own along the quay.",
    "Dear Sir or Madam, I hope this message finds you well.",
    "Once more I must praise your patience.",
    "The dragon yawned and went back to its nap.",
    "Far away a bell rang twice.",
    "Nobody noticed the small blue door.",
    "The forecast promises drizzle, then clearer skies.",
    "Frost is likely in sheltered hollows.",
    "Voters in the valley chose a new mayor.",
    "Our quarterly figures look solid.",
    "Enclosed please find my application as a pastry chef.",
    "Three pawns and a bishop were left on the board.",
    "The midfielder passed, turned and scored.",
    "Hola, espero que todo vaya bien.",
    "Guten Tag, ich habe eine kurze Frage.",
    "Buongiorno a tutti.",
    "She plays the bassoon, he mends antique clocks.",
    "In short: velvet curtains, oak floors, plenty of light.",
    "Whoever invented the zip deserves a statue.",
    "Photosynthesis turns light into sugar.",
    "My flatmate adores crosswords and hates mornings.",
    "The seminar covers spreadsheets, slides and shortcuts.",
    "Warm regards from a rainy Tuesday.",
    "Let's get straight to the point.",
    "To be frank, I adore marzipan.",
    "Bees visit some two million flowers for one jar of honey.",
    "Step one of our warm-up: shake out your wrists.",
)


def fill(form: str, rng: np.random.Generator, parts: dict[str, str] | None = None) -> str:
    """A form with every `{a|b}` and every `<name>` replaced by one of its choices."""
    names = parts or {}
    while (found := re.search(r"<(\w+)>|\{([^{}<>]*)\}", form)) is not None:
        options = names[found[1]] if found[1] else found[2]
        form = form[: found.start()] + choose(rng, options.split("|")) + form[found.end() :]
    return form


def free_sentence(split: str, rng: np.random.Generator) -> str:
    """One harmless sentence of the split, such as `My sister went to the park on Sunday.`"""
    text = fill(choose(rng, {"train": _TRAIN, "validation": _VALIDATION, "test": _TEST}[split]), rng, _PARTS)
    return text[0].upper() + text[1:]


def free_text(words: int, split: str, rng: np.random.Generator) -> str:
    """Harmless sentences of the split, of `words` words or up to one sentence more, hardly ever one twice."""
    said: list[str] = []
    while sum(len(sentence.split()) for sentence in said) < words:
        sentence = free_sentence(split, rng)
        if sentence not in said or len(said) >= 30:
            said.append(sentence)
    return " ".join(said)
