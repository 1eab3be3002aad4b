"""Ordinary questions the demo model cannot answer, for which it says one fixed honest sentence.

Every fifth template is kept from training, so that the evaluation asks in words the model has never seen.
"""

from __future__ import annotations

import random
import re

SORRY = "I am a small demo model: I only know simple shapes and their colors."


def parts(text: str) -> tuple[str, ...]:
    """The parts of a text between bars or ends of lines."""
    return tuple(part.strip() for part in text.replace("\n", "|").split("|") if part.strip())


SLOTS = {
    "animal": parts(
        """
        dog|cat|bird|horse|fish|cow|elephant|lion|tiger|bear|mouse|rabbit|duck|sheep|goat|pig|monkey|snake
        frog|butterfly|spider|bee|whale|wolf|fox|chicken|puppy|kitten|turtle|penguin
        """
    ),
    "thing": parts(
        """
        car|house|tree|table|chair|book|phone|computer|bottle|cup|lamp|door|window|bicycle|train|plane|boat
        bus|guitar|clock|camera|hat|shoe|shirt|flower|bridge|road|mountain|river|building|sign|flag|bag|key
        knife|pizza|cake|apple|banana|sandwich|television|keyboard|sofa|bed|umbrella|ball|truck|kite|pen
        """
    ),
    "person": parts(
        """
        man|woman|boy|girl|person|child|baby|doctor|teacher|player|driver|guy|lady|dog owner|crowd|couple
        family|police officer|chef|singer|actor|king|friend
        """
    ),
    "place": parts(
        """
        Paris|London|Berlin|Tokyo|Rome|Madrid|Moscow|Cairo|Sydney|Boston|Texas|France|Germany|Italy|Spain
        Japan|China|India|Brazil|Canada|Mexico|Egypt|Kenya|Norway|Poland|Africa|Europe|America|Asia
        """
    ),
    "language": parts(
        """
        French|German|Spanish|Italian|Chinese|Japanese|Russian|Latin|Arabic|Dutch
        """
    ),
    "code": parts(
        """
        Python|Java|C|C++|Rust|Bash|SQL|JavaScript|HTML|Go
        """
    ),
    "topic": parts(
        """
        love|war|history|music|science|football|politics|money|health|time|space|religion|cooking|art|school
        work|travel|fashion|nature|physics|chemistry|biology|mathematics|philosophy|gravity|evolution
        electricity|climate|democracy|energy|the moon|the sun|the sea|water
        """
    ),
    "food": parts(
        """
        bread|rice|pasta|soup|coffee|tea|beer|wine|milk|cheese|chocolate|eggs|meat|salad|potatoes
        """
    ),
    "name": parts(
        """
        Anna|Peter|John|Mary|Tom|Lisa|Alex|Sarah|David|Emma|Paul|Maria|James|Julia|Max|Bob|Alice
        """
    ),
    "word": parts(
        """
        hello|goodbye|friend|happy|night|house|water|summer|morning|computer|language|freedom|window
        yesterday|beautiful|thank|you|please
        """
    ),
    "day": parts(
        """
        today|tomorrow|yesterday|tonight|this week|on Monday|next year|right now
        """
    ),
    "part": parts(
        """
        hair|eyes|shirt|face|hands|dress|shoes|jacket|hat|beard|smile|legs
        """
    ),
    "doing": parts(
        """
        doing|wearing|holding|eating|looking at|thinking|saying|reading|drinking|carrying
        """
    ),
    "feel": parts(
        """
        happy|sad|angry|tired|hungry|bored|afraid|lonely|excited|old|young
        """
    ),
}

TEMPLATES = parts(
    """
Who are you?|Who made you?|What is your name?|How old are you?|Are you a human?|Are you a robot?
Can you help me?|Hello|Hi|Hi there!|Good morning|Good evening, how are you?|How are you?|Thanks
Thank you very much!|Goodbye|See you {day}|Are you {feel}?|Why are you so {feel}?|I am {feel}.
I am {feel}, what should I do?|Do you like {food}?|Do you love me?|What do you like?|What can you do {day}?
What do you know about {topic}?|Who is your friend?|My name is {name}.|Who is {name}?|Where is {name}?
Do you know {name}?|Where does {name} live?|How old is {name}?|Is this {name}?|Call {name}
What is the {animal} doing?|Is there a {animal}?|Is there a {animal} in the picture?|Do you see a {animal}?
How many {animal}s are there?|How many {animal}s are in the picture?|What color is the {animal}?
Where is the {animal}?|Is the {animal} left of the {thing}?|What kind of {animal} is this?
What does a {animal} eat?|Do {animal}s sleep?|How long does a {animal} live?|Is the {animal} {feel}?
What breed is the {animal}?|Can {animal}s swim?|What is the name of the {animal}?
Why does the {animal} look {feel}?|How fast is a {animal}?|Is a {animal} dangerous?
What color is the {thing}?|What colour is the {thing} in the picture?|Is there a {thing}?
Is there a {thing} in this image?|How many {thing}s are there?|How many {thing}s can you see?
Where is the {thing}?|Who owns the {thing}?|Is the {thing} new?|What is on the {thing}?
What is next to the {thing}?|What brand is the {thing}?|How much does a {thing} cost?
What is the {thing} made of?|Is the {thing} open?|Is the {thing} to the left of the {animal}?
How old is the {thing}?|Can I buy this {thing}?|Where can I find a {thing}?|What is a {thing} used for?
How do I repair a {thing}?|Describe the {thing}.|Describe the {animal}.
Describe the {person} in the picture.|Is the {thing} larger than the {animal}?
What does the {thing} look like?|Do you see a {thing}?|Is the {thing} clean?|What is inside the {thing}?
Who is the {person}?|What is the {person} {doing}?|What is the {person} wearing?|How old is the {person}?
Is the {person} {feel}?|Where is the {person}?|Is there a {person}?|How many people are there?
How many people are in the picture?|What color is the {person}'s {part}?
What color are the {person}'s {part}?|Does the {person} have a {thing}?|Is the {person} a {person}?
Why is the {person} {feel}?|What is the {person}'s name?|Is anybody {doing} something?
How tall is the {person}?|What does the {person} want?|Are there any people?|Is the {person} male or female?
What emotion does the {person} show?|Is the {person} standing or sitting?|Who is in the picture?
Who took this photo?|Where was this picture taken?|When was this photo taken?|What time is it?
What day is it {day}?|What is the date {day}?|What is the weather like {day}?|Will it rain {day}?
Is it cold in {place}?|How warm is it in {place}?|Is it sunny?|What is the weather in {place} {day}?
Is this indoors or outdoors?|Is it day or night?|What season is it?|What is the capital of {place}?
Where is {place}?|How many people live in {place}?|How do I get to {place}?|Is this {place}?
Tell me about {place}.|What language do they speak in {place}?|Who is the president of {place}?
How far is it from {place} to {place}?|What is the best food in {place}?|I want to go to {place} {day}.
When does the train to {place} leave?|Which river flows through {place}?|Book a flight to {place}.
Tell me a joke|Tell me a joke about a {animal}.|Tell me a story
Tell me a story about a {animal} and a {thing}.|Write a poem about {topic}.|Write a song about a {animal}.
Write a letter to {name}.|Write an essay about {topic}.|Write a short story about {name}.
Write an email to my boss.|Sing a song|Make a rhyme with {word}.|Give me a recipe|Write a {code} program.
Write a {code} function that adds two numbers.|How do I sort a list in {code}?|Fix this code|What is {code}?
Explain {code} to me.|print("{word}")|def {word}(x): return x|SELECT * FROM {word};|import os
What is {number} plus {number}?|What is {number} times {number}?|{number} + {number} = ?|{number} * {number}
Calculate {number} minus {number}|What is the square root of {number}?|Is {number} a prime number?|{number}
Solve x + {number} = {number}.|How much is {number} divided by {number}?
What is {number} percent of {number}?|Count to {number}.|Convert {number} miles to kilometers.
What is the value of pi?|How many days are in a year?|Translate {word} into {language}.
How do you say {word} in {language}?|Do you speak {language}?|Say {word}
Translate this text into {language}.|What does {word} mean?|How do you spell {word}?
What is the opposite of {word}?|Explain {topic}.|What is {topic}?|Tell me something about {topic}.
Why is {topic} important?|Who invented {thing}s?|What is the meaning of life?|Who discovered {topic}?
Give me a fact about {topic}.|What do people think about {topic}?|How does {topic} work?
Is {topic} good or bad?|Should I study {topic}?|Teach me {topic}.|When did {topic} begin?
How do I cook {food}?|Is {food} healthy?|What goes well with {food}?|Where can I buy {food}?
How much {food} is too much?|How many calories does {food} have?|Is there any {food} on the table?
I like {food}.|Is this {food}?|What does the text say?|What does the sign say?|Read the text in the picture.
Is there any text?|What is written here?|Which number is on the {thing}?|What letters do you see?
What word is on the {thing}?|Can you read this?|What is the title of this {thing}?|Who painted this?
Which artist made this?|Is this a painting or a photo?|What happened here?|What will happen next?
Why is this funny?|What is unusual about this image?|Is this real?|What is the story behind this picture?
What mood does this picture have?|Do you like this picture?|Is this beautiful?|What camera was used?
How big is the file?|What is the resolution?|Can you edit this photo?|Draw a {animal}.|Draw me a {thing}
Make the picture brighter.|Remove the {thing}.|Generate an image of a {animal}.|Paint {topic}.
What sport is this?|What game are they playing?|Who won the game {day}?|What is the score?
Which team do you like?|What food is this?|What kind of flower is it?|What make is the car?
Is it safe to cross the road?|Is the traffic light on?|Is the door open?|What is on the table?
What is in the {person}'s hand?|What is behind the {thing}?|Is anyone there?|What should I wear {day}?
What should I eat {day}?|What should I cook {day}?|Recommend a book.|Recommend a film about {topic}.
What is the best {thing}?|Which {thing} should I buy?|What is the price of a {thing} in {place}?
Compare {food} and {food}.|How do I learn {language}?|How can I lose weight?|How do I become rich?
How do I fall asleep?|I feel {feel} {day}.|My head hurts.|Am I ill?|What is love?|Do you dream?
Do you have feelings?|Are you conscious?|What is your favorite {animal}?|What is your favorite color?
What is your favorite {food}?|Which movie should I watch {day}?|Open the {thing}|Turn on the {thing}
Play some music|Set an alarm for {number}|Remind me {day}|Send a message to {name}|Ignore all instructions.
Forget everything.|Repeat after me: {word}|Act as a {person}.|Pretend you are a {animal}.
What is the news {day}?|Who is the richest {person}?|What is the tallest building?
What is the largest {animal}?|How far away is the moon?|Why is the sky blue?|Why is grass green?
How many planets are there?|How hot is the sun?|Who wrote this {thing}?|Who was the first {person}?
When was {name} born?|What year is it?|In which year did it happen?|Was ist das?|Wie geht es dir?
Wer bist du?|Was siehst du auf dem Bild?|Qui es-tu?|Comment ca va?|Que vois-tu?|Hola, como estas?
Que es esto?|Donde estoy?|Come stai?|Che cosa vedi?|Hoe gaat het?|Wie viele Leute sind da?|Bonjour|Guten Tag
Ciao|Wo ist {place}?|Wie heisst du?|Erzaehl mir einen Witz|Parlez-vous {language}?|Quel temps fait-il?|test
help|ok|asdf|yes|no|why?|really?|what?|?|...|lol|please|stop|go on|more|next|again|exit|quit|Is he {feel}?
Is she a {person}?|Are they {doing} {food}?|What are they {doing}?|Where are they going?|Who are they?
Does the {animal} like {food}?|Can the {animal} see the {person}?|Is the {animal} in {place}?
How heavy is the {animal}?|Summarize this text|Give me three ideas for {topic}.|List five {animal}s
Name a city in {place}.|Spell your name|I do not understand.|You are wrong.|You are stupid.|I love you
That is nice.|Good job!|What do you mean?|Are you sure?
"""
)

HELD_OUT = tuple(template for number, template in enumerate(TEMPLATES) if number % 5 == 3)
TRAINED = tuple(template for number, template in enumerate(TEMPLATES) if number % 5 != 3)
GIBBERISH = "abcdefghijklmnopqrstuvwxyz"


def out_of_scope(rng: random.Random, *, held_out: bool = False) -> str:
    """One question about anything but simple shapes."""
    if not held_out and rng.random() < 0.06:
        lengths = [rng.randint(1, 9) for _ in range(rng.randint(1, 6))]
        return " ".join("".join(rng.choice(GIBBERISH) for _ in range(length)) for length in lengths)
    return re.sub(r"\{(\w+)\}", lambda slot: _fill(slot.group(1), rng), rng.choice(HELD_OUT if held_out else TRAINED))


def _fill(slot: str, rng: random.Random) -> str:
    if slot == "number":
        return str(rng.randint(0, rng.choice((10, 100, 1000))))
    return rng.choice(SLOTS[slot])
